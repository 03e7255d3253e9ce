// The command behind scripts/quickstart: starts the system on one folder, makes the sample video, says where it is, and then
// either ends (--once) or keeps the system running until Ctrl-C. Results on stdout, everything else on stderr.

import { constants } from "node:fs";
import { access, mkdir, realpath } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { CliFailure, exitOfJob } from "../control-plane/src/cli/failure.ts";
import { followJob } from "../control-plane/src/cli/follow-job.ts";
import { createOutput, describeFailure } from "../control-plane/src/cli/output.ts";
import { createProgressView, type ProgressView } from "../control-plane/src/cli/progress-view.ts";
import { repositoryRoot } from "./checks/repository.ts";
import { reportFailure, reportVideo } from "./system/report.ts";
import { fetchVideo, submitSample } from "./system/sample.ts";
import { FolderInUse, leaveFolder, takeFolder, writeSession } from "./system/session-file.ts";
import { CannotStart, type RunningSystem, startSystem } from "./system/system.ts";

type Options = { readonly dataDir: string; readonly port: number; readonly isOnce: boolean; readonly isNew: boolean };

/** A control plane that is started again needs this long at most; a render survives it. */
const patienceMs = 180_000;
const defaultPort = 8000;

const readOptions = (): Options => {
  const { values } = parseArgs({
    options: {
      data: { type: "string" },
      port: { type: "string", default: `${defaultPort}` },
      once: { type: "boolean", default: false },
      new: { type: "boolean", default: false },
    },
  });
  const port = Number(values.port);
  // The last two are taken by the two ports above the first.
  if (!Number.isInteger(port) || port < 1 || port > 65_533)
    throw new Error(`--port is a whole number from 1 to 65533, got ${values.port}`);
  const dataDir = values.data === undefined ? join(repositoryRoot(), ".renderplane") : resolve(values.data);
  return { dataDir, port, isOnce: values.once, isNew: values.new };
};

const say = (text: string) => void process.stderr.write(`${text}\n`);

const main = async (): Promise<number> => {
  let options: Options;
  try {
    options = readOptions();
  } catch (error) {
    say(`${error instanceof Error ? error.message : error}\nSee: ./scripts/quickstart --help`);
    return 2;
  }
  const abort = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    process.on(signal, () => {
      // Stopping takes a moment; a second Ctrl-C must not leave half of it behind.
      if (!abort.signal.aborted) say("\nStopping.");
      abort.abort(signal);
    });
  const stopped = () => (abort.signal.reason === "SIGTERM" ? 143 : 130);
  let system: RunningSystem | undefined;
  let noted = Promise.resolve();
  try {
    const dataDir = await openFolder(options.dataDir);
    await takeFolder(dataDir, say);
    try {
      say(`Starting Renderplane on ${dataDir}`);
      system = await startSystem({
        dataDir,
        port: options.port,
        say,
        signal: abort.signal,
        onStarted: (pids) => {
          // Two starts at once must not write at once.
          noted = noted
            .then(() => writeSession(dataDir, `http://127.0.0.1:${options.port}`, pids))
            .catch((error: unknown) => say(`quickstart.json could not be written: ${error}`));
        },
      });
      const exitCode = await makeVideo(system, { ...options, dataDir }, abort.signal);
      if (options.isOnce) return exitCode;
      sayWhereItIs(system);
      await untilAborted(abort.signal);
      return exitCode;
    } finally {
      await system?.stop();
      await noted;
      await leaveFolder(dataDir);
    }
  } catch (error) {
    if (abort.signal.aborted) return stopped();
    if (error instanceof CliFailure) say(describeFailure(error));
    else if (error instanceof CannotStart || error instanceof FolderInUse) say(error.message);
    else say(error instanceof Error ? (error.stack ?? error.message) : String(error));
    return error instanceof CliFailure ? error.exitCode : 1;
  }
};

/** The folder, made when it is new, without links in its path: it names processes and files of this run. */
const openFolder = async (folder: string): Promise<string> => {
  try {
    // Two calls: for a folder that the kernel refuses to make (/proc/x) a recursive one tries for ever.
    await mkdir(dirname(folder), { recursive: true });
    await mkdir(folder, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
    await access(folder, constants.W_OK | constants.X_OK);
    return await realpath(folder);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    throw new CannotStart(`The folder ${folder} cannot be used (${code}). Name another one with --data DIR.`);
  }
};

const makeVideo = async (system: RunningSystem, options: Options, signal: AbortSignal): Promise<number> => {
  const { client } = system;
  const file = join(repositoryRoot(), "examples/narrated-video.json");
  const { jobId, isEarlier } = await submitSample(client, { dataDir: options.dataDir, file, isNew: options.isNew });
  say(isEarlier ? `The sample is job ${jobId} of an earlier run (--new makes another)` : `The sample is job ${jobId}`);
  const streams = { stdout: process.stdout, stderr: process.stderr };
  const { isLive } = createOutput({ streams, env: process.env, json: undefined, noColor: false });
  const view: ProgressView = createProgressView(process.stderr, isLive);
  const job = await followJob(client, jobId, { signal, onJob: view.show, onTrouble: view.say, patienceMs }).finally(
    () => view.stop(),
  );
  if (job.state !== "completed") {
    say(reportFailure(job));
    return exitOfJob(job);
  }
  const video = await fetchVideo(client, jobId, join(options.dataDir, "videos"));
  process.stdout.write(`${reportVideo(job, video)}\n`);
  return 0;
};

const sayWhereItIs = ({ url }: RunningSystem): void =>
  say(
    [
      "",
      `Renderplane stays up at ${url}`,
      `  jobs     ${url}/api/v1/jobs`,
      `  API      ${url}/api/v1/openapi.json`,
      `  metrics  ${url}/metrics`,
      `  submit   npx renderplane submit examples/narrated-video.json --wait${url.endsWith(`:${defaultPort}`) ? "" : ` --server ${url}`}`,
      "Stop it with Ctrl-C.",
    ].join("\n"),
  );

const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve();
    // A promise alone does not keep a process alive; the kept processes do.
    signal.addEventListener("abort", () => resolve(), { once: true });
  });

process.exitCode = await main();
