// The agent's link against the control plane's edge, over real sockets and mutual TLS in one process. The operations behind the
// edge live in memory; the supervisor in front of the link records what reaches it. One story a test.
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type HeldAttempt,
  HeldState,
  type HelloAck,
  Outcome,
  Refusal,
  VerdictAction,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { type Logger, silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { identityPath } from "../../agent/src/link/identity.ts";
import { createLink, type Link, type LinkOptions } from "../../agent/src/link/link.ts";
import type { Supervisor } from "../../agent/src/work/contract.ts";
import {
  createFakeOperations,
  inventory,
  makeId,
  offer,
  serialOf,
  startEdge,
  type TestEdge,
  until,
} from "../../control-plane/src/grpc/testing.ts";
import { openAuthority } from "../../control-plane/src/identity/authority.ts";

let dir = "";
let edges: TestEdge[] = [];
let links: Link[] = [];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "renderplane-link-"));
  edges = [];
  links = [];
});
afterEach(async () => {
  for (const link of links) await link.stop();
  for (const edge of edges) await edge.stop();
  await rm(dir, { recursive: true, force: true });
});

const fastPace = {
  helloLimitMs: 700,
  firstRetryMs: 20,
  backoffBaseMs: 20,
  backoffCapMs: 50,
  refusedRetryMs: 100,
  renewalPauseMs: 100,
};

type Recorder = Supervisor & {
  readonly seen: { readonly what: string; readonly value: unknown }[];
  held: () => HeldAttempt[];
  attempts: HeldAttempt[];
  of(what: string): unknown[];
};
const recorder = (): Recorder => {
  const seen: { what: string; value: unknown }[] = [];
  const note = (what: string) => (value?: unknown) => {
    seen.push({ what, value });
  };
  const made: Recorder = {
    seen,
    attempts: [],
    held: () => made.attempts,
    onHelloAck: (ack, sentAtMonoMs) => note("ack")({ ...ack, sentAtMonoMs }),
    onOffer: note("offer"),
    onStart: note("start"),
    onStop: note("stop"),
    onHeartbeatAck: (sentAtMonoMs, stops) => note("beat")({ sentAtMonoMs, stops }),
    onDisconnect: note("disconnect"),
    of: (what) => seen.filter((entry) => entry.what === what).map((entry) => entry.value),
  };
  return made;
};
/** Keeps warnings and errors with their level. */
const keeping = (): { readonly log: Logger; readonly lines: string[] } => {
  const lines: string[] = [];
  const log = silentLogger();
  const keep = (level: string) => (facts: { reason?: string }) => lines.push(`${level}: ${facts.reason ?? ""}`);
  return { log: Object.assign(log, { warn: keep("warn"), error: keep("error") }) as Logger, lines };
};
const serve = async (...args: Parameters<typeof startEdge>) => {
  const edge = await startEdge(...args);
  edges.push(edge);
  return edge;
};
const linkTo = (edge: TestEdge | undefined, more: Partial<LinkOptions> = {}) => {
  const supervisor = recorder();
  const kept = keeping();
  const link = createLink({
    dir,
    name: "alpha",
    agentVersion: "0.1.0",
    ...(edge ? { enrolAddress: edge.edge.enrolAddress(), joinToken: edge.operations.issueToken() } : {}),
    inventory: () => inventory,
    health: async () => ({
      cpuUsed: 0.5,
      memoryUsedBytes: 1n,
      scratchFreeBytes: 2n,
      gpus: [],
      agentRssBytes: 3n,
      loadAverage: 0,
    }),
    supervisor,
    pace: fastPace,
    log: kept.log,
    ...more,
  });
  links.push(link);
  return { link, supervisor, lines: kept.lines };
};
const enrolled = async () => {
  const edge = await serve();
  const first = linkTo(edge);
  await first.link.start();
  await until("the session opens", () => first.link.isOpen());
  return { edge, ...first };
};
const failure = async (act: Promise<unknown>): Promise<Error> =>
  act.then(
    () => new Error("nothing failed"),
    (error: unknown) => error as Error,
  );

describe("enrolment", () => {
  test("a token becomes an identity on disk that needs no token again", async () => {
    const { edge, link, supervisor } = await enrolled();
    const mode = (await stat(identityPath(dir))).mode & 0o777;
    expect(mode).toBe(0o600);
    await link.stop();
    expect(supervisor.of("disconnect")).toHaveLength(1);
    const again = linkTo(undefined);
    await again.link.start();
    await until("the session opens", () => again.link.isOpen());
    expect(again.link.hostId()).toBe(link.hostId());
    expect(edge.operations.callsOf("enrolHost")).toHaveLength(1);
  });

  test("without identity and token the start says which setting is missing", async () => {
    const edge = await serve();
    const { link } = linkTo(undefined, { enrolAddress: edge.edge.enrolAddress() });
    const error = await failure(link.start());
    expect(error.name).toBe("ConfigError");
    expect(error.message).toContain("RENDERPLANE_JOIN_TOKEN is not set");
  });

  test("a server whose authority is not the token's is refused before the token is sent", async () => {
    const [edge, impostor] = [await serve(), await serve()];
    const { link } = linkTo(edge, { enrolAddress: impostor.edge.enrolAddress() });
    const error = await failure(link.start());
    expect(error).toMatchObject({ code: "certificate_refused" });
    expect(error.message).toContain("is not the control plane that issued this join token");
    expect(impostor.operations.calls).toEqual([]);
  });

  test("a server that shows the right authority but does not own a certificate of it gets no token", async () => {
    const edge = await serve();
    const other = openAuthority(undefined).authority;
    const mixed = {
      ...edge.authority,
      serverCredentials: async (names: readonly string[]) => {
        const { key, certificate } = await other.serverCredentials(names);
        return { key, certificate: certificate + edge.authority.authorities };
      },
    };
    const impostor = await serve({ authority: mixed });
    const { link } = linkTo(edge, { enrolAddress: impostor.edge.enrolAddress() });
    const starting = failure(link.start());
    await until("the chain was looked at", () => true);
    await Promise.race([starting, new Promise((resolve) => setTimeout(resolve, 400))]);
    await link.stop();
    await starting;
    expect(impostor.operations.calls).toEqual([]);
  });

  test.each([
    ["token_expired", { ttlMs: -1 }, "the join token has expired"],
    ["token_used", { maxUses: 0 }, "the join token has been used"],
  ])("%s ends the start with the control plane's sentence", async (code, token, text) => {
    const edge = await serve();
    const { link } = linkTo(edge, { joinToken: edge.operations.issueToken(token) });
    const error = await failure(link.start());
    expect(error).toBeInstanceOf(RenderplaneError);
    expect(error).toMatchObject({ code, message: text });
  });

  test("a second agent with the same name is refused", async () => {
    const { edge } = await enrolled();
    const second = linkTo(edge, { dir: join(dir, "second") });
    expect(await failure(second.link.start())).toMatchObject({
      code: "host_name_taken",
      message: "another host is named alpha",
    });
  });

  test("an answer that was lost is asked for again with the same key and wastes no token", async () => {
    const authority = openAuthority(undefined).authority;
    const operations = createFakeOperations(authority);
    let isLost = true;
    const edge = await serve({
      authority,
      operations: {
        ...operations,
        enrolHost: async (r) => {
          const answer = await operations.enrolHost(r);
          if (isLost) throw new RenderplaneError("unavailable", "the answer is lost", { retryAfterMs: 10_000 });
          return answer;
        },
      },
    });
    const joinToken = operations.issueToken();
    const first = linkTo(edge, { joinToken });
    const starting = first.link.start();
    await until("the token is used", () => operations.hosts.size === 1);
    await first.link.stop();
    await starting;
    isLost = false;
    const second = linkTo(edge, { joinToken });
    await second.link.start();
    expect(operations.hosts.size).toBe(1);
    expect(second.link.hostId()).toBe([...operations.hosts.keys()][0]);
  });

  test("a control plane that is not up yet is waited for", async () => {
    const edge = await serve();
    await edge.stop();
    const { link, lines } = linkTo(edge);
    const starting = link.start();
    await until("the first try failed", () => lines.length > 0);
    expect(lines[0]).toContain(`warn: the control plane cannot be reached at ${edge.edge.enrolAddress()}`);
    await serve({}, edge);
    await starting;
    await until("the session opens", () => link.isOpen());
  });
});

describe("a session", () => {
  test("offer, answer, start, progress, heartbeat, stop: each reaches the other side", async () => {
    const { edge, link, supervisor } = await enrolled();
    const hostId = link.hostId() ?? "";
    const given = offer();
    edge.operations.attempts.set(given.attemptId, { fence: given.fence, state: "offered" });
    edge.operations.hosts.get(hostId)?.offers.push(given);
    edge.ring(hostId);
    await until("the offer arrives", () => supervisor.of("offer").length === 1);
    expect(supervisor.of("offer")[0]).toMatchObject({ attemptId: given.attemptId, kind: "noop", leaseMs: 600 });
    const { attemptId, fence } = given;
    link.answerOffer({ attemptId, fence, accepted: true, refusal: Refusal.REFUSAL_UNSPECIFIED, reason: "" });
    await until("the start arrives", () => supervisor.of("start").length === 1);
    supervisor.attempts = [{ attemptId, fence, state: HeldState.HELD_STATE_RUNNING }];
    link.sendProgress({ attemptId, fence, fraction: 0.25, speed: 1, etaMs: 4000n, step: "drawing" });
    await until("it is passed on", () => edge.progress.length === 1);
    await until("it is stored", () => edge.operations.renewals.some((r) => r[0]?.progress === 0.25));
    edge.operations.attempts.set(attemptId, { fence: 2n, state: "offered" });
    const stops = () => supervisor.of("beat").flatMap((beat) => (beat as { stops: unknown[] }).stops);
    await until("the lost lease is told", () => stops().length > 0);
    expect(stops()[0]).toMatchObject({ attemptId, fence });
  });

  test("leases count from when a heartbeat was sent, never from its acknowledgement", async () => {
    const { edge, supervisor } = await enrolled();
    await until("a heartbeat is acknowledged", () => supervisor.of("beat").length > 0);
    edge.operations.isAway = true;
    const before = supervisor.of("beat").length;
    await until("renewals fail", () => edge.operations.callsOf("recordHealth").length > before + 3);
    const backAt = performance.now();
    edge.operations.isAway = false;
    const count = supervisor.of("beat").length;
    await until("it is acknowledged again", () => supervisor.of("beat").length > count);
    const { sentAtMonoMs } = supervisor.of("beat")[count] as { sentAtMonoMs: number };
    expect(sentAtMonoMs).toBeLessThan(backAt);
    expect(supervisor.of("disconnect")).toEqual([]);
  });

  test("after a restart of the control plane the session resumes with what is held, and progress is said again", async () => {
    const { edge, link, supervisor } = await enrolled();
    const [kept, lost] = [makeId("a"), makeId("a")];
    edge.operations.attempts.set(kept, { fence: 1n, state: "running" });
    supervisor.attempts = [kept, lost].map((attemptId) => ({
      attemptId,
      fence: 1n,
      state: HeldState.HELD_STATE_RUNNING,
    }));
    link.sendProgress({ attemptId: kept, fence: 1n, fraction: 0.5, speed: 1, etaMs: -1n, step: "drawing" });
    await edge.stop();
    await until("the link knows", () => !link.isOpen() && supervisor.of("disconnect").length === 1);
    const request = {
      attemptId: kept,
      fence: 1n,
      outcome: Outcome.OUTCOME_SUCCEEDED,
      result: "{}",
      outputs: [],
      failure: undefined,
      usage: [],
      elapsedMs: 1n,
    };
    expect(await failure(link.complete(request))).toMatchObject({ code: "unavailable" });
    const back = await serve({}, edge);
    await until("the session is open again", () => link.isOpen());
    const ack = supervisor.of("ack").at(-1) as HelloAck;
    expect(ack.epoch).toBe(2n);
    expect(ack.verdicts).toEqual([
      { attemptId: kept, fence: 1n, action: VerdictAction.VERDICT_ACTION_CONTINUE },
      { attemptId: lost, fence: 1n, action: VerdictAction.VERDICT_ACTION_ABANDON },
    ]);
    await until("progress is said again", () => back.progress.length === 1);
    expect((await link.complete(request)).applied).toBe(true);
    expect((await link.placeOutputs({ attemptId: kept, fence: 1n, outputs: [] })).targets).toEqual([]);
  });

  test("a supervisor that throws on a message does not end the session", async () => {
    const edge = await serve();
    const supervisor = recorder();
    const { link } = linkTo(edge, {
      supervisor: {
        ...supervisor,
        onHeartbeatAck: (sentAtMonoMs, stops) => {
          supervisor.onHeartbeatAck(sentAtMonoMs, stops);
          throw new Error("a fault of the agent");
        },
      },
    });
    await link.start();
    await until("several are acknowledged", () => supervisor.of("beat").length >= 3);
    expect(supervisor.of("disconnect")).toEqual([]);
  });

  test("a stop says goodbye: the end is stored at once", async () => {
    const { edge, link } = await enrolled();
    await link.stop();
    await until("the end is stored", () => edge.operations.callsOf("closeSession").length === 1);
    await link.stop();
  });

  test("a report that is too large loses its evidence first", async () => {
    const { edge, link } = await enrolled();
    const attemptId = makeId("a");
    const failed = { failureClass: "unknown", message: "m", evidence: `${"e".repeat(300_000)}END`, exit: "1" };
    const request = {
      attemptId,
      fence: 1n,
      outcome: Outcome.OUTCOME_FAILED,
      result: "{}",
      outputs: [],
      failure: failed,
      usage: [],
      elapsedMs: 1n,
    };
    await link.complete(request);
    expect(edge.operations.ends[0]?.failure?.evidence).toMatch(/^e{1997}END$/);
    await expect(link.complete({ ...request, result: "r".repeat(300_000) })).rejects.toMatchObject({
      code: "body_too_large",
    });
  });
});

describe("who may not come in", () => {
  test("a revoked host keeps its work, asks slowly, and says what to do", async () => {
    const { edge, link, supervisor, lines } = await enrolled();
    const identity = JSON.parse(await readFile(identityPath(dir), "utf8"));
    edge.operations.hosts.get(link.hostId() ?? "")?.serials.set(serialOf(identity.certificate), "revoked");
    await edge.stop();
    await serve({}, edge);
    await until("it is refused", () => lines.some((line) => line.startsWith("error")));
    expect(lines.find((line) => line.startsWith("error"))).toBe(
      "error: this certificate has been revoked; enrol the host again",
    );
    const tries = () => edge.operations.callsOf("openSession").length;
    const before = tries();
    await until("it asks again", () => tries() > before);
    expect(supervisor.of("disconnect")).toHaveLength(1);
  });

  test("a control plane with another authority is told apart from one that is away", async () => {
    const { edge, link, lines } = await enrolled();
    await edge.stop();
    await until("the closed port is told", () => lines.some((line) => line.includes("cannot be reached")));
    await serve({ agentListen: edge.edge.agentAddress() });
    await until("the foreign server is told", () => lines.some((line) => line.startsWith("error")));
    expect(lines.find((line) => line.startsWith("error"))).toContain(
      "is not the control plane that this host enrolled at",
    );
    expect(link.isOpen()).toBe(false);
  });

  test("a certificate of another authority is refused by the server and named in the agent's log", async () => {
    const { edge, link } = await enrolled();
    await link.stop();
    const identity = JSON.parse(await readFile(identityPath(dir), "utf8"));
    const elsewhere = await serve();
    // The host trusts the new server, but its own certificate is still the other authority's.
    const moved = {
      ...identity,
      authorities: elsewhere.authority.authorities,
      sessionAddress: elsewhere.edge.agentAddress(),
    };
    await writeFile(identityPath(dir), JSON.stringify(moved));
    const again = linkTo(edge);
    await again.link.start();
    await until("the refusal is told", () => again.lines.some((line) => line.startsWith("error")));
    expect(again.lines.find((line) => line.startsWith("error"))).toContain(
      "does not accept this host's certificate (it was issued by another authority)",
    );
    expect(elsewhere.operations.calls).toEqual([]);
  });

  test("an expired certificate is named with its date", async () => {
    const authority = openAuthority(undefined, () => Date.now() - 80 * 3_600_000).authority;
    const edge = await serve({ authority, operations: createFakeOperations(authority) }, undefined);
    const operations = createFakeOperations(authority);
    const real = await serve({ authority, operations });
    const { link, lines } = linkTo(edge, {
      enrolAddress: real.edge.enrolAddress(),
      joinToken: operations.issueToken(),
    });
    await link.start();
    await until("it is told", () => lines.some((line) => line.startsWith("error")));
    expect(lines.find((line) => line.startsWith("error"))).toMatch(/this host's certificate expired at .* GMT; move /);
  });

  test("a silent server (a dead network behind an open port) is given up on and tried again", async () => {
    const { edge, link, lines } = await enrolled();
    const address = edge.edge.agentAddress();
    await edge.stop();
    const sockets: import("node:net").Socket[] = [];
    const silent = createServer((socket) => sockets.push(socket));
    await new Promise<void>((resolve) => silent.listen(Number(address.split(":")[1]), "127.0.0.1", resolve));
    try {
      await until("it is told", () => lines.some((line) => line.includes("no answer in 3 s")));
    } finally {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => silent.close(resolve));
    }
    await serve({}, edge);
    await until("the session is open again", () => link.isOpen());
  });
});

test("a certificate past two thirds of its life is renewed with a new key, and the session goes on with it", async () => {
  // Issued 60 of its 72 hours ago.
  const authority = openAuthority(undefined, () => Date.now() - 60 * 3_600_000).authority;
  const operations = createFakeOperations(authority);
  const edge = await serve({ authority, operations });
  const { link, supervisor } = linkTo(edge, {
    joinToken: operations.issueToken(),
    pace: { ...fastPace, renewalPauseMs: 300 },
  });
  await link.start();
  const before = JSON.parse(await readFile(identityPath(dir), "utf8"));
  await until("it is renewed and a second session is open", () => supervisor.of("ack").length >= 2);
  const after = JSON.parse(await readFile(identityPath(dir), "utf8"));
  expect(after.key).not.toBe(before.key);
  const [, second] = operations.callsOf("openSession") as { serial: string }[];
  expect(operations.hosts.get(link.hostId() ?? "")?.serials.get(second?.serial ?? "")).toBe("valid");
  expect(second?.serial).not.toBe(serialOf(before.certificate));
});
