// An agent's link and the control plane's edge in one process, over real sockets and mutual TLS. The operations behind the edge live
// in memory; the supervisor in front of the link records what reaches it. Everything that was started is stopped after each test.
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { HeldAttempt } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { type Logger, silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { identityPath } from "../../agent/src/link/identity.ts";
import { createLink, type Link, type LinkOptions } from "../../agent/src/link/link.ts";
import type { Supervisor } from "../../agent/src/work/contract.ts";
import { inventory, startEdge, type TestEdge, until } from "../../control-plane/src/grpc/testing.ts";

export const fastPace = {
  helloLimitMs: 700,
  firstRetryMs: 20,
  backoffBaseMs: 20,
  backoffCapMs: 50,
  refusedRetryMs: 100,
  renewalPauseMs: 100,
};

/** Notes every message with the time at which it came. */
export type Recorder = Supervisor & {
  attempts: HeldAttempt[];
  of(what: string): unknown[];
};

export const recorder = (): Recorder => {
  const seen: { readonly what: string; readonly value: unknown }[] = [];
  const note = (what: string) => (value?: unknown) => {
    seen.push({ what, value });
  };
  const made: Recorder = {
    attempts: [],
    held: () => made.attempts,
    onHelloAck: (ack, sentAtMonoMs) => note("ack")({ ...ack, sentAtMonoMs }),
    onOffer: note("offer"),
    onStart: note("start"),
    onStop: note("stop"),
    onHeartbeatAck: (sentAtMonoMs, stops) => note("beat")({ sentAtMonoMs, stops, at: performance.now() }),
    onDisconnect: note("disconnect"),
    of: (what) => seen.filter((entry) => entry.what === what).map((entry) => entry.value),
  };
  return made;
};

/** Keeps the reasons of warnings and errors with their level. */
const keeping = (): { readonly log: Logger; readonly lines: string[] } => {
  const lines: string[] = [];
  const keep = (level: string) => (facts: { reason?: string }) => lines.push(`${level}: ${facts.reason ?? ""}`);
  return { log: Object.assign(silentLogger(), { warn: keep("warn"), error: keep("error") }) as Logger, lines };
};

export type Stage = {
  /** State folder of the agent. */
  readonly dir: string;
  serve(...args: Parameters<typeof startEdge>): Promise<TestEdge>;
  /** A link that enrols at this edge with a fresh token; without an edge it has none. */
  linkTo(
    edge: TestEdge | undefined,
    more?: Partial<LinkOptions>,
  ): { readonly link: Link; readonly supervisor: Recorder; readonly lines: string[] };
  /** One edge and one link with an open session. */
  enrolled(): Promise<ReturnType<Stage["linkTo"]> & { readonly edge: TestEdge }>;
  identity(): Promise<{ readonly key: string; readonly certificate: string }>;
  clear(): Promise<void>;
};

export const setStage = async (): Promise<Stage> => {
  const dir = await mkdtemp(join(tmpdir(), "renderplane-link-"));
  const edges: TestEdge[] = [];
  const links: Link[] = [];
  const stage: Stage = {
    dir,
    serve: async (...args) => {
      const edge = await startEdge(...args);
      edges.push(edge);
      return edge;
    },
    linkTo: (edge, more = {}) => {
      const supervisor = recorder();
      const { log, lines } = keeping();
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
          unacknowledgedEnds: 0,
          isDraining: false,
        }),
        supervisor,
        pace: fastPace,
        log,
        ...more,
      });
      links.push(link);
      return { link, supervisor, lines };
    },
    enrolled: async () => {
      const edge = await stage.serve();
      const first = stage.linkTo(edge);
      await first.link.start();
      await until("the session opens", () => first.link.isOpen());
      return { edge, ...first };
    },
    identity: async () => JSON.parse(await readFile(identityPath(dir), "utf8")),
    clear: async () => {
      for (const link of links) await link.stop();
      for (const edge of edges) await edge.stop();
      await rm(dir, { recursive: true, force: true });
    },
  };
  return stage;
};

export const failure = async (act: Promise<unknown>): Promise<Error> =>
  act.then(
    () => new Error("nothing failed"),
    (error: unknown) => error as Error,
  );
