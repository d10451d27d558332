// How the pages are built, and in development served before a gateway. What is built does not depend on the machine.
import { defineConfig } from "vite";

const gateway = process.env.NHI_URL ?? "http://127.0.0.1:8000";
const forward = { target: gateway, changeOrigin: true, headers: { origin: gateway } };
const proxy = { "/mesh": forward, "/session": forward, "/events": forward };

export default defineConfig({
  base: "/",
  server: { port: 5173, proxy },
  preview: { port: 5173, proxy },
  build: {
    target: "es2022",
    cssTarget: ["chrome123", "firefox128", "safari17.5"],
    // A data: address would be an exception in the content policy that nothing else needs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // The gateway compresses; the figure here only costs time.
    reportCompressedSize: false,
  },
});
