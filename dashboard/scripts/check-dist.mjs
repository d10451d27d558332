// Whether dist/ is what the sources give: builds beside it and compares names and bytes.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { gzipSync } from "node:zlib";

const root = join(import.meta.dirname, "..");
const fresh = mkdtempSync(join(tmpdir(), "nhi-dist-"));
const LIMIT = 300_000;

function files(folder) {
  const all = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(all.map((entry) => [relative(folder, join(entry.parentPath, entry.name)), readFileSync(join(entry.parentPath, entry.name))]));
}

try {
  execFileSync(process.execPath, [join(root, "node_modules/vite/bin/vite.js"), "build", "--outDir", fresh, "--emptyOutDir", "--logLevel", "error"], { cwd: root, stdio: "inherit" });
  const [want, have] = [files(fresh), files(join(root, "dist"))];
  const wrong = [...new Set([...want.keys(), ...have.keys()])].filter((name) => !want.get(name)?.equals(have.get(name) ?? Buffer.alloc(0)));
  const bytes = [...want.values()].reduce((sum, content) => sum + gzipSync(content, { level: 9 }).length, 0);
  if (wrong.length > 0) {
    console.error(`dist is not what the sources give: ${wrong.join(", ")}; run \`npm run build\` and commit dist`);
    process.exitCode = 1;
  } else if (bytes > LIMIT) {
    console.error(`the pages are ${bytes} bytes compressed, more than ${LIMIT}`);
    process.exitCode = 1;
  } else {
    console.log(`dist is what the sources give: ${want.size} files, ${bytes} bytes compressed`);
  }
} finally {
  rmSync(fresh, { recursive: true, force: true });
}
