// Makes the signing request for a key of this host, in a process that ends with its answer. The library that writes requests would
// otherwise stay in the agent's memory for one request every two days. Measured: loaded here it keeps 13 MB, a thread keeps 26 MB
// after its end, a process keeps nothing. The key goes there through a pipe: never an argument, a variable or a file.
import { type ExecFileException, execFile } from "node:child_process";
import type { KeyObject } from "node:crypto";
import { fileURLToPath } from "node:url";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";

/** Half a second of one core; a host that renders on every core may take ten times as long. */
const answerLimitMs = 30_000;
/** A request is about 220 bytes; what a program that fails has to say is longer. */
const maxAnswerBytes = 64 * 1024;

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
        const message = `the signing request for this host's certificate could not be made: ${reasonOf(error, words.toString())}`;
        reject(new RenderplaneError("internal", message, error ? { cause: error } : {}));
      },
    );
    // A program that has ended already takes no key; its end, which says why, is told above.
    child.stdin?.on("error", () => {});
    child.stdin?.end(key.export({ type: "pkcs8", format: "der" }));
  });

/** One sentence for the log; all that the program said is in the cause. */
const reasonOf = (error: ExecFileException | null, words: string): string => {
  const [sentence] = /^\w*(?:Error|Exception)\b.*/m.exec(words) ?? [];
  if (sentence !== undefined) return sentence;
  if (error?.killed) return `no answer in ${answerLimitMs / 1000} s`;
  if (error?.signal) return `its process was ended by ${error.signal}`;
  return error?.message.split("\n", 1)[0] ?? "the answer is empty";
};
