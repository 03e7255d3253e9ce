// The tree of commands: names, options, help. What a command does is imported only when it runs, so that help and errors come
// at once. Job commands exist twice, under `job` and on their own, because they are what people type all day.
import { Command, CommanderError } from "@commander-js/extra-typings";
import {
  type CommonOptions,
  openSession,
  type Session,
  type Surroundings,
  withCommonOptions,
} from "./commands/session.ts";
import { CliFailure, type ExitCode, exitCodes } from "./failure.ts";
import { describeFailure } from "./output.ts";

const examples = `
Examples:
  renderplane submit examples/narrated-video.json --wait
  renderplane submit -f script="Hello, world." -f title=Hello --wait
  renderplane submit --pipeline transcode --media film.mov -f title=Film
  renderplane submit examples/narrated-video.json --dry-run
  renderplane list --state failed --json id,status_text
  renderplane explain v_01KX…

Exit codes: 0 ok · 1 unexpected · 2 usage · 3 not found · 4 forbidden · 5 conflict · 6 timed out waiting
  7 job failed or cancelled · 8 degraded · 9 server unreachable · 10 stopped by cost limit · 11 rate limited`;

/** Runs one command line; never throws, never exits the process. */
export const runCommandLine = async (argv: readonly string[], around: Surroundings): Promise<ExitCode> => {
  let exitCode: ExitCode = exitCodes.ok;
  const act = async (options: CommonOptions, run: (session: Session) => Promise<ExitCode>) => {
    exitCode = await run(openSession(around, options));
  };
  try {
    await buildProgram(around, act).parseAsync(separateJson(argv), { from: "user" });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
    if (around.signal.aborted && !(error instanceof CliFailure && error.exitCode === exitCodes.interrupted))
      return stoppedBy(around.signal);
    const failure = error instanceof CliFailure ? error : unexpected(error, around);
    around.streams.stderr.write(`${describeFailure(failure)}\n`);
    return around.signal.aborted ? stoppedBy(around.signal) : failure.exitCode;
  }
};

type Act = (options: CommonOptions, run: (session: Session) => Promise<ExitCode>) => Promise<void>;

const buildProgram = (around: Surroundings, act: Act): Command => {
  const program = new Command("renderplane")
    .description("Turns texts into videos on a fleet of render hosts.")
    .addHelpText("after", examples);
  const job = new Command("job").description("jobs: submit, list, view, watch, explain, cancel");
  for (const make of [submit, list, view, watch, explain, cancel]) {
    program.addCommand(make(act) as Command);
    job.addCommand(make(act) as Command);
  }
  program.addCommand(job);
  program.addCommand(queue(act) as Command);
  program.addCommand(host(act));
  program.addCommand(doctor(act) as Command);
  for (const command of everyCommand(program))
    command
      .exitOverride()
      .showHelpAfterError("(--help shows what is possible)")
      .configureOutput({
        writeOut: (text) => void around.streams.stdout.write(text),
        writeErr: (text) => void around.streams.stderr.write(text),
      });
  return program;
};

const everyCommand = (command: Command): Command[] => [
  command,
  ...command.commands.flatMap((child) => everyCommand(child as Command)),
];

const submit = (act: Act) =>
  withCommonOptions(new Command("submit").description("submit a job"))
    .argument("[file]", "the job as JSON; - reads stdin")
    .option("--media <files...>", "files to use, in this order")
    .option("-p, --pipeline <name>", "which pipeline (default: narrated-video)")
    .option(
      "-f, --field <key=value>",
      "a field of the request; key=@FILE takes the text of a file",
      (value: string, all: string[]) => [...all, value],
      [] as string[],
    )
    .option("--priority <n>", "1 (last) to 9 (first)")
    .option("--complexity <c>", "simple, complex or premium")
    .option("--dry-run", "say when, where and for how much, and submit nothing")
    .option("--wait", "wait for the end and exit by it")
    .option("--timeout <time>", "give up waiting after this (like 90s, 10m)")
    .option("--idempotency-key <key>", "the same key never makes a second job")
    .action((file, options) =>
      act(options, async (session) => (await import("./commands/submit.ts")).submitJob(session, file, options)),
    );

const list = (act: Act) =>
  withCommonOptions(new Command("list").description("the newest jobs"))
    .option("--state <state>", "queued, processing, completed, failed or cancelled")
    .option("-p, --pipeline <name>", "of this pipeline")
    .option("--limit <n>", "how many", "20")
    .action((options) =>
      act(options, async (session) => (await import("./commands/list.ts")).listJobs(session, options)),
    );

const queue = (act: Act) =>
  withCommonOptions(new Command("queue").description("what waits, against which limits, in which order")).action(
    (options) => act(options, async (session) => (await import("./commands/queue.ts")).showQueue(session)),
  );

const view = (act: Act) =>
  withCommonOptions(new Command("view").description("everything about one job"))
    .argument("<id>")
    .action((id, options) =>
      act(options, async (session) => (await import("./commands/view.ts")).viewJob(session, id)),
    );

const watch = (act: Act) =>
  withCommonOptions(new Command("watch").description("follow a job to its end and exit by it"))
    .argument("<id>")
    .option("--timeout <time>", "give up after this (like 90s, 10m)")
    .action((id, options) =>
      act(options, async (session) => (await import("./commands/watch.ts")).watchJob(session, id, options)),
    );

const explain = (act: Act) =>
  withCommonOptions(new Command("explain").description("why a job waits, with the reason of every host"))
    .argument("<id>")
    .action((id, options) =>
      act(options, async (session) => (await import("./commands/explain.ts")).explainJob(session, id)),
    );

const cancel = (act: Act) =>
  withCommonOptions(new Command("cancel").description("end jobs"))
    .argument("<ids...>")
    .option("--reason <text>", "why, for the record", "cancelled on the command line")
    .action((ids, options) =>
      act(options, async (session) => (await import("./commands/cancel.ts")).cancelJobs(session, ids, options)),
    );

const host = (act: Act): Command => {
  const group = new Command("host").description("hosts: list, view, enroll-command, cordon, drain, revoke, remove, …");
  const hosts = withCommonOptions(new Command("list").description("hosts and what is free on them")).action((options) =>
    act(options, async (session) => (await import("./commands/host.ts")).listHosts(session)),
  );
  const enroll = withCommonOptions(new Command("enroll-command").description("the line that adds a host"))
    .option("--ttl <time>", "how long it may be used", "1h")
    .option("--uses <n>", "for how many hosts", "1")
    .action((options) =>
      act(options, async (session) => (await import("./commands/host.ts")).enrollCommand(session, options)),
    );
  group.addCommand(hosts as unknown as Command).addCommand(enroll as unknown as Command);
  for (const command of hostActs(act)) group.addCommand(command);
  return group;
};

/** Every one takes the host by its name or id, and says why. */
const hostActs = (act: Act): Command[] => {
  const onHost = (name: string, about: string) =>
    withCommonOptions(new Command(name).description(about))
      .argument("<host>", "name or id")
      .option("--reason <text>", "why; it is kept with the host and in the event log");
  const simple = (["cordon", "uncordon", "maintenance", "quarantine", "release"] as const).map((name) =>
    onHost(name, simpleActs[name]).action((host, options) =>
      act(options, async (session) =>
        (await import("./commands/host-acts.ts")).actOnHost(session, name, host, options),
      ),
    ),
  );
  const view = withCommonOptions(new Command("view").description("everything about one host"))
    .argument("<host>", "name or id")
    .action((host, options) =>
      act(options, async (session) => (await import("./commands/host-acts.ts")).viewHost(session, host)),
    );
  const drain = onHost("drain", "no new work, and in the end none at all")
    .option("--within <time>", "give back what still runs after this (like 10m); without it, work may finish")
    .option("--give-back", "give back what runs, at once or after --within")
    .option("--wait", "wait until it holds nothing")
    .option("--timeout <time>", "give up waiting after this; the drain goes on")
    .action((host, options) =>
      act(options, async (session) => (await import("./commands/host-acts.ts")).drainHost(session, host, options)),
    );
  const revoke = onHost("revoke", "never accept it again; its stream ends within seconds")
    .option("--certificate <serial>", "only this certificate of it")
    .action((host, options) =>
      act(options, async (session) => (await import("./commands/host-acts.ts")).revokeHost(session, host, options)),
    );
  const remove = onHost("remove", "forget a host that is offline and holds nothing; its name is free").action(
    (host, options) =>
      act(options, async (session) => (await import("./commands/host-acts.ts")).removeHost(session, host, options)),
  );
  const pool = withCommonOptions(new Command("pool").description("put it into another pool"))
    .argument("<host>", "name or id")
    .argument("<pool>", "hosts that fall silent together")
    .option("--reason <text>", "why")
    .action((host, name, options) =>
      act(options, async (session) => (await import("./commands/host-acts.ts")).moveHost(session, host, name, options)),
    );
  const valve = withCommonOptions(
    new Command("open-valve").description(
      "give the work of a pool away although many of its hosts fell silent at once",
    ),
  )
    .argument("[pool]", "which pool", "default")
    .option("--reason <text>", "why")
    .action((name, options) =>
      act(options, async (session) => (await import("./commands/host-acts.ts")).openValve(session, name, options)),
    );
  return [view, drain, ...simple, revoke, remove, pool, valve].map((command) => command as unknown as Command);
};

const simpleActs = {
  cordon: "no new work; what runs goes on",
  uncordon: "takes work again",
  maintenance: "no new work, and its silence does not count with its pool",
  quarantine: "not trusted any more; only a release ends it",
  release: "ends a quarantine",
} as const;

const doctor = (act: Act) =>
  withCommonOptions(new Command("doctor").description("check the server and this machine, and say what to fix")).action(
    (options) => act(options, async (session) => (await import("./commands/doctor.ts")).runDoctor(session)),
  );

/** `--json` alone takes nothing; `--json a,b` takes fields. Without this, `view --json ID` would read ID as a field. */
export const separateJson = (argv: readonly string[]): string[] => {
  const out: string[] = [];
  for (const [index, word] of argv.entries()) {
    const isFields = /^[a-z][a-z_]*(,[a-z][a-z_]*)*$/.test(argv[index + 1] ?? "");
    if (word === "--json" && !isFields) out.push("--json=");
    else out.push(word);
  }
  return out;
};

/** A signal that came while a request was under way; commands that wait have already said what goes on without them. */
const stoppedBy = (signal: AbortSignal): ExitCode =>
  signal.reason === "SIGTERM" ? exitCodes.terminated : exitCodes.interrupted;

/** A fault of ours; DEBUG shows where. */
const unexpected = (error: unknown, { env }: Surroundings): CliFailure => {
  const hasStack = error instanceof Error && env.DEBUG !== undefined && env.DEBUG !== "";
  const text = error instanceof Error ? error.message : String(error);
  return new CliFailure(exitCodes.unexpected, hasStack ? (error.stack ?? text) : text, { cause: error });
};
