// Makes the signing request for a key of this host, in a process that ends with its answer. The library that writes requests would
// otherwise stay in the agent's memory for one request every two days: a thread of this process leaves 23 MB behind when it
// ends, a process leaves nothing. The key goes there through a pipe: never an argument, a variable or a file, and never off this host.
import { execFile } from "node:child_process";
import type { KeyObject } from "node:crypto";
import { fileURLToPath } from "node:url";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";

/** 0.3 s on an idle host; a host that renders on every core may take ten times as long. */
const answerLimitMs = 30_000;
/** A request is about 220 bytes; what a program that fails has to say is longer. */
const maxAnswerBytes = 64 * 1024;
/** Of what the program said when it failed: enough for its first sentence. */
const maxReason = 500;

const programPath = fileURLToPath(new URL("./signing-request-process.ts", import.meta.url));

/** PKCS#10 in DER. It asks for no name: the control plane gives the name. Throws `internal`, which may pass: no memory, no process. */
export const makeRequest = (key: KeyObject): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    const child = execFile(
      process.execPath,
      [programPath],
      // Nothing of the agent's environment: it holds the keys of providers, and NODE_OPTIONS are meant for the agent.
      { env: {}, encoding: "buffer", timeout: answerLimitMs, killSignal: "SIGKILL", maxBuffer: maxAnswerBytes },
      (error, answer, words) => {
        if (!error && answer.length > 0) return resolve(answer);
        const said = words.toString("utf8").trim().slice(0, maxReason) || error?.message || "it answered nothing";
        const reason = error?.killed ? `no answer in ${answerLimitMs / 1000} s` : said;
        const message = `the signing request for this host's certificate could not be made: ${reason}`;
        reject(new RenderplaneError("internal", message, error ? { cause: error } : {}));
      },
    );
    // A program that has ended already takes no key; its end, which says why, is told above.
    child.stdin?.on("error", () => {});
    child.stdin?.end(key.export({ type: "pkcs8", format: "der" }));
  });
