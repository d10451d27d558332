// Preloaded into a Node program that tests MCP servers: each request to the server carries the key in NHI_KEY, which the
// program itself has no option for. Nothing else is changed.
"use strict";
const http = require("node:http");
const { syncBuiltinESMExports } = require("node:module");

const authorization = `Bearer ${process.env.NHI_KEY}`;
const request = http.request;
http.request = function (...args) {
  const sent = request.apply(http, args);
  if (!sent.headersSent && !sent.hasHeader("authorization")) sent.setHeader("authorization", authorization);
  return sent;
};
syncBuiltinESMExports();

const fetched = globalThis.fetch;
globalThis.fetch = (input, init = {}) => {
  const headers = new Headers(init.headers ?? (input instanceof Request ? input.headers : undefined));
  if (!headers.has("authorization")) headers.set("authorization", authorization);
  return fetched(input, { ...init, headers });
};
