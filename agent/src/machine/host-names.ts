// What CPU and OS of this host are called, as systeminformation tells it; Node's own words where it does not answer.
// Asked in a process that ends with its answer, because it is asked once: loaded here the library keeps 7 MB.
// Never rejects: names are for people, and no host is refused for them.
import { execFile } from "node:child_process";
import os from "node:os";
import { fileURLToPath } from "node:url";

export type HostNames = { readonly os: string; readonly cpuModel: string };

/** Half a second of one core; it runs other programs (lscpu and the like), which may hang. */
const answerLimitMs = 10_000;
const maxAnswerBytes = 64 * 1024;
const maxNameLength = 200;

const programPath = fileURLToPath(new URL("./host-names-process.ts", import.meta.url));

export const readHostNames = (program = programPath): Promise<HostNames> =>
  new Promise((resolve) => {
    const plain = { os: `${os.type()} ${os.release()}`, cpuModel: os.cpus()[0]?.model ?? "unknown" };
    execFile(
      process.execPath,
      [program],
      // Nothing of the agent's environment: it holds keys.
      {
        env: { PATH: process.env.PATH ?? "" },
        timeout: answerLimitMs,
        killSignal: "SIGKILL",
        maxBuffer: maxAnswerBytes,
      },
      (error, answer) => {
        const told = error ? {} : parsed(answer);
        resolve({ os: nameIn(told.os) || plain.os, cpuModel: nameIn(told.cpuModel) || plain.cpuModel });
      },
    );
  });

const nameIn = (value: unknown): string => (typeof value === "string" ? value.slice(0, maxNameLength) : "");

const parsed = (text: string): { readonly [key: string]: unknown } => {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? { ...value } : {};
  } catch {
    return {};
  }
};
