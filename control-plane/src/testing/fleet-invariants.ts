// What must hold of a whole fleet once it is quiet: the database, the folders of its agents, the processes that they run, and the
// log of events. Some of it takes a moment to come true (a folder goes after the answer, an event is numbered by the next turn of
// the relay), so what is broken is asked again for a while, and only what stays broken is named.
// Leaves out: I14 and I15 (commands, terminals: not there yet), I20 (gauges), and of I18 the hosts that were idle meanwhile.
import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { brokenOf, type Invariants, instantInvariants, type Sql } from "./invariants.ts";

export type FleetFacts = {
  readonly sql: Sql;
  /** Folders of the agents that run now. One that is dead may leave programs behind until their dead-man switch ends them. */
  readonly agentDirs: readonly string[];
  /** Attempts of this folder that have a process now. Default: a look at the environment of every process of this machine. */
  readonly processesOf?: (agentDir: string) => Promise<readonly string[]>;
  /** Longest silence of a lease that is still in order: lease and grace, or all of a valve. */
  readonly windowMs?: number;
  /** How long what is broken may take to come right. */
  readonly settleMs?: number;
  /** Words that must stand in no event and in no log (join tokens, keys), and the logs. */
  readonly secrets?: readonly string[];
  readonly logs?: readonly string[];
};

/** Above a window, because loops look once a turn and machines are slow. */
const slackMs = 60_000;
/** The database's clock and a rounding of microseconds; a charge may not be more than this above the wall time. */
const chargeSlackSeconds = 0.01;
const lookMs = 200;

/** The invariants of the database that need a quiet fleet, or a clock. */
export const quietInvariants = (windowMs: number): Invariants => {
  const past = (column: string) =>
    `${column} < clock_timestamp() - make_interval(secs => ${(windowMs + slackMs) / 1000}::float8)`;
  return {
    "I4 an attempt whose lease ended long ago is still live": `select id from attempts where state <> 'ended' and ${past("lease_until")}
      and not exists (select 1 from hosts h join pool_valves v on v.pool = h.pool where h.id = host_id and v.opens_at > clock_timestamp())`,
    "I4 a stage waits although its time has come": `select id::text from stages where state = 'waiting' and ${past("run_at")}`,
    "I5 an event that nobody numbered": `select id::text from events where published_seq is null`,
    "I5 events of a job are numbered in another order than they happened": `select job_id from (select job_id, published_seq, lag(published_seq) over
      (partition by job_id order by id) as before from events where job_id is not null and published_seq is not null) e where published_seq <= before`,
    "I5 a job's first event is not job.queued": `select job_id from (select distinct on (job_id) job_id, type from events where job_id is not null order by job_id, id) e
      where type <> 'job.queued'`,
    // What is said about a finished job (it was late, it was dear) may follow; nothing of its stages may.
    "I5 a stage moved after its job's terminal event": `select e.job_id from events e join events t on t.job_id = e.job_id and t.is_terminal and t.id < e.id
      where e.type like 'stage.%'`,
    "I9 more time was charged than has passed": `select a.id from attempts a join ledger l on l.attempt_id = a.id and l.kind = 'charge'
      where (l.service = 'cpu_compute' and (l.basis ->> 'quantity')::float8 > (a.allocation ->> 'cores')::float8 *
              (extract(epoch from a.ended_at - a.started_at) + ${chargeSlackSeconds}))
         or (l.service = 'gpu_compute' and (l.basis ->> 'quantity')::float8 > extract(epoch from a.ended_at - a.started_at) + ${chargeSlackSeconds})`,
    "I12 a host with more than one open session": `select host_id from host_sessions where closed_at is null group by host_id having count(*) > 1`,
    "I12 a host is held by a replica that is not there": `select h.id from hosts h where h.replica is not null and exists (select 1 from replicas)
      and not exists (select 1 from replicas r where r.id = h.replica)`,
    "I16 a host without a valid certificate was heard": `select a.id from attempts a join
      (select host_id, max(revoked_at) as at from certificates group by host_id having bool_and(revoked_at is not null)) r on r.host_id = a.host_id
      where a.started_at > r.at + interval '5 seconds'`,
  };
};

/** Names every invariant that stays broken, those of any instant first. Empty: the fleet is in order. */
export const brokenFleet = async (facts: FleetFacts): Promise<string[]> => {
  const invariants = { ...instantInvariants, ...quietInvariants(facts.windowMs ?? 60_000) };
  const end = performance.now() + (facts.settleMs ?? 10_000);
  for (;;) {
    const broken = [
      ...(await brokenOf(facts.sql, invariants)),
      ...(await brokenFolders(facts)),
      ...(await spoken(facts)),
    ];
    if (broken.length === 0 || performance.now() > end) return broken;
    await pause(lookMs);
  }
};

type LiveAttempt = { readonly id: string; readonly state: string; readonly host: string };

const brokenFolders = async (facts: FleetFacts): Promise<string[]> => {
  const broken: string[] = [];
  // Folders and processes first: an attempt that ends meanwhile is then named, looked at again and found to be gone.
  const found = await Promise.all(
    facts.agentDirs.map(async (dir) => ({
      dir,
      hostId: await hostOf(dir),
      folders: await listed(join(dir, "attempts")),
      processes: await (facts.processesOf ?? markedAttempts)(dir),
      leftovers: await leftoversIn(dir),
    })),
  );
  const live = (await facts.sql(
    `select a.id, a.state, a.host_id as host from attempts a where a.state <> 'ended'`,
  )) as readonly LiveAttempt[];
  const isLive = new Set(live.map((attempt) => attempt.id));
  for (const { dir, hostId, folders, processes, leftovers } of found) {
    const name = basename(dir);
    for (const id of folders)
      if (!isLive.has(id)) broken.push(`a folder of an attempt whose end was answered: ${name}/${id}`);
    for (const id of processes)
      if (!isLive.has(id) || !folders.includes(id))
        broken.push(`I11 a process of an attempt that the host does not hold: ${name}/${id}`);
    for (const { id, state, host } of live)
      if (host === hostId && state === "running" && !folders.includes(id))
        broken.push(`I11 an attempt that the host should hold and does not: ${name}/${id}`);
    for (const path of leftovers) broken.push(`a file that was left half done: ${name}/${path}`);
  }
  return broken;
};

/** I21: secrets in what people and tools read. */
const spoken = async (facts: FleetFacts): Promise<string[]> => {
  const broken: string[] = [];
  for (const secret of facts.secrets ?? []) {
    const shown = `${secret.slice(0, 6)}…`;
    if ((facts.logs ?? []).some((text) => text.includes(secret))) broken.push(`I21 a secret stands in a log: ${shown}`);
    const literal = `'${secret.replaceAll("'", "''")}'`;
    const rows = await facts.sql(`select id from events where position(${literal} in body::text) > 0 limit 1`);
    if (rows.length > 0) broken.push(`I21 a secret stands in an event: ${shown}`);
  }
  return broken;
};

const hostOf = async (dir: string): Promise<string | undefined> => {
  const text = await readFile(join(dir, "identity.json"), "utf8").catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as { hostId?: string }).hostId;
};

/** Drafts of journals, and removals that were not finished. Partial downloads stay: the next one goes on from there. */
const leftoversIn = async (dir: string): Promise<string[]> => {
  const removed = (await listed(join(dir, "removed"))).map((name) => `removed/${name}`);
  const own = (await listed(dir)).filter(isDraft);
  const attempts = await listed(join(dir, "attempts"));
  const drafts = await Promise.all(
    attempts.map(async (id) =>
      (await listed(join(dir, "attempts", id))).filter(isDraft).map((name) => `attempts/${id}/${name}`),
    ),
  );
  return [...removed, ...own, ...drafts.flat()];
};

const isDraft = (name: string): boolean => name.endsWith(".new");
const listed = (folder: string): Promise<string[]> => readdir(folder).catch(() => []);

/** Attempts of this agent that have a process, by the marker in its environment. A zombie has none any more. */
export const markedAttempts = async (agentDir: string): Promise<string[]> => {
  const marker = `RENDERPLANE_ATTEMPT=${join(agentDir, "attempts")}/`;
  const found = new Set<string>();
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const environment = await readFile(`/proc/${entry}/environ`, "latin1").catch(() => "");
    const line = environment.split("\0").find((text) => text.startsWith(marker));
    if (line !== undefined) found.add(line.slice(marker.length));
  }
  return [...found];
};
