//! Model backends: OpenAI-compatible servers, Ollama, Gemini, Anthropic, each spoken to in its own words and read back
//! as OpenAI's `chat.completions`. It chooses no backend and retries nothing.
