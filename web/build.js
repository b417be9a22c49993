// Builds rotate_core/explorer/static/explorer.js, the one file that the widget is: the compiled kernel goes into the
// worker and the page as bytes, the worker goes into the page as text. And rotate_core/atlas/atlas.html, a page that
// looks into an atlas and is one file, too.
//
//     node build.js                  the kernel and both
//     node build.js --kernel-only    kernel.wasm, which the tests read
//     node build.js --out FOLDER     both somewhere else
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    "kernel-only": { type: "boolean", default: false },
    out: { type: "string" },
  },
});

const folder = (room) => resolve(options.out ?? join(here, "..", "rotate_core", room));

const wasm = join(here, "build", "kernel.wasm");
mkdirSync(dirname(wasm), { recursive: true });
execFileSync(process.execPath, [
  join(here, "node_modules", "assemblyscript", "bin", "asc.js"),
  "solver/kernel.ts",
  "--outFile", "build/kernel.wasm",
  "--enable", "simd",
  "--runtime", "stub",
  "--importMemory",
  "--noAssert",
  "-O3",
], { cwd: here, stdio: "inherit" });

if (!options["kernel-only"]) {
  const common = {
    absWorkingDir: here,
    bundle: true,
    charset: "utf8",
    format: "esm",
    legalComments: "none",
    minify: true,
    target: "es2022",
  };
  const workerAsText = {
    name: "worker-as-text",
    setup({ onLoad }) {
      onLoad({ filter: /solver[\\/]worker\.js$/ }, async ({ path }) => {
        const { outputFiles } = await build({ ...common, entryPoints: [path], format: "iife", write: false });
        return { contents: outputFiles[0].text, loader: "text" };
      });
    },
  };
  await build({
    ...common,
    entryPoints: ["view/explorer.js"],
    loader: { ".wasm": "binary" },
    outfile: join(folder("explorer/static"), "explorer.js"),
    plugins: [workerAsText],
  });
  const { outputFiles } = await build({ ...common, entryPoints: ["atlas/page.js"], loader: { ".css": "text" }, write: false });
  const read = (...path) => readFileSync(join(here, ...path), "utf8");
  const licences = ["hyparquet", "fzstd"].map((name) => `${name}: ${read("node_modules", name, "LICENSE")}`).join("\n");
  const page = read("atlas", "page.html").replace("LICENCES\n", () => licences).replace("CODE\n", () => outputFiles[0].text);
  writeFileSync(join(folder("atlas"), "atlas.html"), page);
}
