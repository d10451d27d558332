"""The libraries that AI programs are written with, pointed at the gateway: openai, anthropic, ollama and google-genai.

Each asks the same question whole and streamed, lists models, calls a tool and meets an unknown model. What each got is printed
as one JSON object a line; a library that does not understand an answer raises, and then this program fails.
Takes NHI_URL, NHI_KEY (an identity's seed), NHI_MODEL, NHI_QUESTION and NHI_TOKENS (of an answer) from the environment, and tests
tools unless NHI_TOOLS is "no".
"""

import json
import os

import anthropic
import ollama
import openai
from google import genai
from google.genai import types

URL, KEY = os.environ["NHI_URL"], os.environ["NHI_KEY"]
MODEL, QUESTION = os.environ["NHI_MODEL"], os.environ["NHI_QUESTION"]
TOOLS = os.environ.get("NHI_TOOLS") != "no"
MESSAGES = [{"role": "user", "content": QUESTION}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "tells the weather", "parameters": SCHEMA}}
ASK_TOOL = "Call the tool weather."
LIMIT = int(os.environ["NHI_TOKENS"])


def tell(library, **facts):
    print(json.dumps({"library": library, **facts}), flush=True)


def refused(call, kind):
    """The message of the error a call is expected to raise."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"an unknown model did not raise {kind}")


def with_openai():
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
    asked = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": LIMIT}
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    pieces, finish, usage = [], None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finish = choice.finish_reason or finish
    facts = {
        "whole": whole.choices[0].message.content,
        "streamed": "".join(pieces),
        "pieces": len(pieces),
        "finish": finish,
        "tokens": [whole.usage.completion_tokens, usage.completion_tokens],
        "models": [model.id for model in client.models.list()],
        "refused": refused(
            lambda: client.chat.completions.create(model="no-such-model", messages=MESSAGES), openai.NotFoundError
        ),
    }
    if TOOLS:
        called = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": ASK_TOOL}], tools=[TOOL]
        )
        facts["tool"] = called.choices[0].message.tool_calls[0].function.name
    tell("openai", **facts)

    response = client.responses.create(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=LIMIT)
    pieces, done = [], None
    for event in client.responses.create(
        model=MODEL, input=QUESTION, temperature=0, max_output_tokens=LIMIT, stream=True
    ):
        if event.type == "response.output_text.delta":
            pieces.append(event.delta)
        if event.type in ("response.completed", "response.incomplete"):
            done = event.response
    tell(
        "responses",
        whole=response.output_text,
        streamed="".join(pieces),
        pieces=len(pieces),
        finish=done.status,
        tokens=[response.usage.output_tokens, done.usage.output_tokens],
    )


def with_anthropic():
    client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
    asked = {"model": MODEL, "max_tokens": LIMIT, "messages": MESSAGES, "extra_body": {"temperature": 0}}
    whole = client.messages.create(**asked)
    pieces = []
    with client.messages.stream(**asked) as stream:
        for text in stream.text_stream:
            pieces.append(text)
        done = stream.get_final_message()
    facts = {
        "whole": whole.content[0].text,
        "streamed": "".join(pieces),
        "pieces": len(pieces),
        "finish": done.stop_reason,
        "tokens": [whole.usage.output_tokens, done.usage.output_tokens],
        "models": [model.id for model in client.models.list()],
        "refused": refused(
            lambda: client.messages.create(model="no-such-model", max_tokens=9, messages=MESSAGES),
            anthropic.NotFoundError,
        ),
    }
    if TOOLS:
        tool = {"name": "weather", "description": "tells the weather", "input_schema": SCHEMA}
        with client.messages.stream(
            model=MODEL, max_tokens=99, messages=[{"role": "user", "content": ASK_TOOL}], tools=[tool]
        ) as stream:
            called = stream.get_final_message()
        facts["tool"] = next(block.name for block in called.content if block.type == "tool_use")
    tell("anthropic", **facts)


def with_ollama():
    client = ollama.Client(host=URL, headers={"Authorization": f"Bearer {KEY}"})
    options = {"temperature": 0, "num_predict": LIMIT}
    whole = client.chat(model=MODEL, messages=MESSAGES, options=options)
    pieces, last = [], None
    for part in client.chat(model=MODEL, messages=MESSAGES, options=options, stream=True):
        pieces.append(part.message.content)
        last = part
    written = client.generate(model=MODEL, prompt=QUESTION, options=options)
    facts = {
        "whole": whole.message.content,
        "streamed": "".join(pieces),
        "written": written.response,
        "pieces": len(pieces),
        "finish": last.done_reason,
        "tokens": [whole.eval_count, last.eval_count],
        "models": [model.model for model in client.list().models],
        "capabilities": client.show(MODEL).capabilities,
        "refused": refused(lambda: client.chat(model="no-such-model", messages=MESSAGES), ollama.ResponseError),
    }
    if TOOLS:
        called = client.chat(model=MODEL, messages=[{"role": "user", "content": ASK_TOOL}], tools=[TOOL])
        facts["tool"] = called.message.tool_calls[0].function.name
    tell("ollama", **facts)


def with_google():
    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=URL))
    config = types.GenerateContentConfig(temperature=0, max_output_tokens=LIMIT)
    whole = client.models.generate_content(model=MODEL, contents=QUESTION, config=config)
    pieces, last = [], None
    for chunk in client.models.generate_content_stream(model=MODEL, contents=QUESTION, config=config):
        pieces.append(chunk.text or "")
        last = chunk
    facts = {
        "whole": whole.text,
        "streamed": "".join(pieces),
        "pieces": len(pieces),
        "finish": last.candidates[0].finish_reason.value,
        "tokens": [whole.usage_metadata.candidates_token_count, last.usage_metadata.candidates_token_count],
        "refused": refused(
            lambda: client.models.generate_content(model="no-such-model", contents=QUESTION), genai.errors.ClientError
        ),
    }
    if TOOLS:
        function = types.FunctionDeclaration(name="weather", description="tells", parameters_json_schema=SCHEMA)
        called = client.models.generate_content(
            model=MODEL,
            contents=ASK_TOOL,
            config=types.GenerateContentConfig(
                tools=[types.Tool(function_declarations=[function])],
                automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            ),
        )
        facts["tool"] = called.function_calls[0].name
    tell("google", **facts)


with_openai()
with_anthropic()
with_ollama()
with_google()
