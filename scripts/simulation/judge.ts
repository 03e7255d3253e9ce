// What must hold at every instant, of one snapshot and of the step from the one before. Numbers are those of the invariants that
// the design lists. Each rule answers what is wrong in words, or nothing.
import type { AttemptFacts, Snapshot } from "./snapshot.ts";

type Rule = (now: Snapshot, before: Snapshot | undefined) => string | undefined;

const count = <T>(items: readonly T[], of: (item: T) => boolean): number => items.filter(of).length;
const sum = <T>(items: readonly T[], of: (item: T) => number): number => items.reduce((n, item) => n + of(item), 0);
/** What the first item that breaks a rule says. */
const first = <T>(items: readonly T[], wrong: (item: T) => string | undefined | false): string | undefined => {
  for (const item of items) {
    const words = wrong(item);
    if (words) return words;
  }
  return undefined;
};

const oneLiveAttempt: Rule = ({ stages, attempts }) =>
  first(stages, (s) => {
    const live = count(attempts, (a) => a.stage === s.id && a.state !== "ended");
    if (live > 1) return `I1 ${s.name} has ${live} live attempts`;
    const isLeased = s.state === "offered" || s.state === "running" || s.state === "cancelling";
    return isLeased !== (live === 1) && `${s.name} of ${s.job} is ${s.state} with ${live} live attempts`;
  });

const fencesGrow: Rule = ({ attempts }) =>
  first(attempts.slice(1), (a) => {
    const previous = attempts[attempts.indexOf(a) - 1] as AttemptFacts;
    return (
      a.stage === previous.stage &&
      a.fence <= previous.fence &&
      `I2 fence ${a.fence} after ${previous.fence} in one stage`
    );
  });

const publishedOnce: Rule = ({ stages, attempts }) =>
  first(stages, (s) => {
    const won = attempts.filter((a) => a.stage === s.id && a.outcome === "succeeded");
    if (won.length > 1) return `I3 ${s.name} of ${s.job} succeeded ${won.length} times`;
    return (
      (s.fence ?? null) !== (won[0]?.fence ?? null) &&
      `I3 ${s.name} of ${s.job} publishes fence ${s.fence}, its success has ${won[0]?.fence}`
    );
  });

const oneTerminalEvent: Rule = ({ jobs, events }) =>
  first(jobs, (j) => {
    const ends = events.filter((e) => e.job === j.id && e.terminal).map((e) => e.type);
    const expected = j.end === null ? [] : [`job.${j.state}`];
    return ends.join() !== expected.join() && `I5 ${j.id} is ${j.state} with the terminal events [${ends.join()}]`;
  });

const endsStay: Rule = (now, before) => {
  if (!before) return undefined;
  for (const kind of ["jobs", "stages", "attempts"] as const) {
    const found = new Map(now[kind].map((row) => [row.id, JSON.stringify(row)]));
    const words = first<{ readonly id: string | number; readonly end: string | null }>(before[kind], (row) => {
      const today = found.get(row.id);
      if (today === undefined) return `I4 ${row.id} of ${kind} is gone`;
      return (
        row.end !== null &&
        today !== JSON.stringify(row) &&
        `I6 ${row.id} of ${kind} changed after its end: ${JSON.stringify(row)} became ${today}`
      );
    });
    if (words) return words;
  }
  return undefined;
};

const moneyAddsUp: Rule = ({ jobs, attempts, ledger }) =>
  first(jobs, (j) => {
    const own = ledger.filter((l) => l.job === j.id);
    const of = (kind: string) =>
      sum(
        own.filter((l) => l.kind === kind),
        (l) => l.micros,
      );
    if (j.held !== of("hold") - of("release"))
      return `I7 ${j.id} holds ${j.held}, its ledger says ${of("hold") - of("release")}`;
    return j.spent !== of("charge") && `I7 ${j.id} spent ${j.spent}, its ledger says ${of("charge")}`;
  }) ??
  first(attempts, (a) => {
    const own = ledger.filter((l) => l.attempt === a.id);
    const holds = count(own, (l) => l.kind === "hold");
    const releases = count(own, (l) => l.kind === "release");
    const charged = sum(
      own.filter((l) => l.kind === "charge"),
      (l) => l.micros,
    );
    if (holds !== 1 || releases !== (a.state === "ended" ? 1 : 0))
      return `I9 ${a.id} is ${a.state} with ${holds} holds and ${releases} releases`;
    return charged !== a.charge && `I9 ${a.id} is charged ${a.charge}, its ledger says ${charged}`;
  });

const needsFirst: Rule = ({ stages }) =>
  first(stages, (s) =>
    first(s.needs, (need) => {
      const needed = stages.find((d) => d.job === s.job && d.name === need);
      return (
        s.attempts > 0 &&
        needed?.state !== "succeeded" &&
        `I17 ${s.name} of ${s.job} began, and ${need} is ${needed?.state}`
      );
    }),
  );

/** An event is the change it reports: both are there, or neither. */
const eventsTellTheTruth: Rule = ({ jobs, stages, attempts, events }) =>
  first(jobs, (j) => {
    const of = (type: string) => count(events, (e) => e.job === j.id && e.type === type);
    if (of("job.queued") !== 1) return `${j.id} was queued ${of("job.queued")} times by its events`;
    return of("job.started") > (j.started ? 1 : 0) && `${j.id} started ${of("job.started")} times by its events`;
  }) ??
  first(stages, (s) => {
    const completed = count(events, (e) => e.job === s.job && e.stage === s.name && e.type === "stage.completed");
    return (
      completed !== (s.state === "succeeded" ? 1 : 0) &&
      `${s.name} of ${s.job} is ${s.state} and was completed ${completed} times by its events`
    );
  }) ??
  first(attempts, (a) => {
    const of = (type: string) => count(events, (e) => e.attempt === a.id && e.type === type);
    if (of("stage.offered") !== 1) return `${a.id} was offered ${of("stage.offered")} times by its events`;
    return (
      of("stage.started") !== (a.started === null ? 0 : 1) &&
      `${a.id} started ${of("stage.started")} times by its events`
    );
  });

/** A reader that remembers the last number it saw misses nothing: numbers are never given behind one that was seen. */
const publishedInOrder: Rule = ({ events }, before) => {
  const known = new Map((before?.events ?? []).map((e) => [e.id, e.seq]));
  const last = Math.max(0, ...[...known.values()].map((seq) => seq ?? 0));
  return first(events, (e) => {
    const was = known.get(e.id) ?? null;
    if (was !== null) return was !== e.seq && `event ${e.id} was number ${was} and is ${e.seq}`;
    return e.seq !== null && e.seq <= last && `event ${e.id} got number ${e.seq} after ${last} was published`;
  });
};

const epochsGrow: Rule = ({ hosts }, before) =>
  first(before?.hosts ?? [], (h) => {
    const today = hosts.find((other) => other.id === h.id);
    return (
      today !== undefined && today.epoch < h.epoch && `I12 the epoch of ${h.id} fell from ${h.epoch} to ${today.epoch}`
    );
  });

const rules: readonly Rule[] = [
  oneLiveAttempt,
  fencesGrow,
  publishedOnce,
  oneTerminalEvent,
  endsStay,
  moneyAddsUp,
  needsFirst,
  eventsTellTheTruth,
  publishedInOrder,
  epochsGrow,
];

/** The first rule that is broken, in words. */
export const judge = (now: Snapshot, before: Snapshot | undefined): string | undefined => {
  for (const rule of rules) {
    const words = rule(now, before);
    if (words) return words;
  }
  return undefined;
};
