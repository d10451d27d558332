"""An AI agent's way through the lab with the Python MCP client: it looks, is refused, has a plan approved by a person
and carries it out. Where to stands in the first line of standard input: over HTTP (`url`, `key`) or stdio (`command`). It
prints a JSON line for each thing it did; before it applies the plan it waits for another line."""

import asyncio
import json
import sys

from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client


def say(what, **values):
    print(json.dumps({"did": what, **values}), flush=True)


def text(result):
    return "\n".join(part.text for part in result.content)


async def walk(client):
    tools = (await client.list_tools()).tools
    say("list", version=client.protocol_version, tools=sorted(tool.name for tool in tools))
    state = await client.call_tool("lab_state", {"select": ["vm"]})
    names = {record["record"]["name"]: key for key, record in state.structured_content["records"].items()}
    say("look", failed=bool(state.is_error), guests=sorted(names))
    context = await client.read_resource("nhi://context")
    say("context", text=context.contents[0].text[:40])
    prompt = await client.get_prompt("shut_down_safely", {"what": "staging"})
    say("prompt", text=prompt.messages[0].content.text)

    refused = await client.call_tool("guest_plan", {"intent": {"do": "destroy", "guest": names["neural-home"]}})
    say("refused", failed=bool(refused.is_error), text=text(refused))
    planned = await client.call_tool("guest_plan", {"intent": {"do": "destroy", "guest": "staging"}, "reason": "a test"})
    plan = planned.structured_content
    say("planned", failed=bool(planned.is_error), plan=plan["plan"], digest=plan["digest"], waiting=plan["waiting_for"])
    asked = {"plan": plan["plan"], "digest": plan["digest"]}
    early = await client.call_tool("plan_apply", asked)
    say("early", failed=bool(early.is_error), text=text(early))

    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    told = []

    async def progress(done, total, message):
        told.append(message)

    applied = await client.call_tool("plan_apply", asked, progress_callback=progress)
    say("applied", failed=bool(applied.is_error), state=applied.structured_content["state"]["is"], told=told)


async def main():
    place = json.loads(sys.stdin.readline())
    if "command" in place:
        command, *arguments = place["command"]
        async with Client(StdioServerParameters(command=command, args=arguments)) as client:
            return await walk(client)
    headers = {"Authorization": f"Bearer {place['key']}"}
    async with create_mcp_http_client(headers=headers) as http:
        async with Client(streamable_http_client(place["url"], http_client=http)) as client:
            return await walk(client)


asyncio.run(main())
