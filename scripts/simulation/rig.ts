// What all histories of a process share: the database with a clock, one set of connections a lane, and the data that operations
// decide with. A history gets it empty and gives it back.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Timings, timingsOf } from "@renderplane/proto/kernel/limits.ts";
import { pino } from "pino";
import { createAddressSigner } from "../../control-plane/src/artifacts/address-signer.ts";
import type { ArtifactStore } from "../../control-plane/src/artifacts/artifact-store.ts";
import { openArtifactFolder } from "../../control-plane/src/artifacts/folder.ts";
import { type Pipeline, parsePipeline } from "../../control-plane/src/domain/pipeline.ts";
import { type Authority, openAuthority } from "../../control-plane/src/identity/authority.ts";
import { loadPrices } from "../../control-plane/src/load-data.ts";
import type { Context } from "../../control-plane/src/operations/context.ts";
import type { Database } from "../../control-plane/src/store/database.ts";
import { openSimulatedDatabase, type SimulatedDatabase } from "../../control-plane/src/testing/simulated-clock.ts";
import { heartbeatMs } from "./plan.ts";
import { idLetters, type Random } from "./random.ts";

/** Events that run at once have connections of their own; three is the most that a plan weaves. */
const lanes = 3;

export type Rig = {
  readonly database: SimulatedDatabase;
  readonly lanes: readonly { readonly name: string; readonly db: Database }[];
  readonly pipelines: readonly Pipeline[];
  readonly timings: Timings;
  /** The parts of a context that do not belong to a replica. `stored` are the artifacts that are stored whole. */
  context(options: {
    readonly random: Random;
    readonly stored: ReadonlyMap<string, number>;
    readonly publish: (channel: string, message: unknown) => void;
    readonly ring: (topic: string) => void;
    /** A line of the log, as JSON, from warn on. */
    readonly log: (line: string) => void;
  }): Omit<Context, "db" | "replica">;
  close(): Promise<void>;
};

type Stage = {
  readonly name: string;
  readonly needs?: readonly string[];
  readonly exclusive?: boolean;
  readonly cost?: number;
};
const pipelineOf = (name: string, stages: readonly Stage[]): Pipeline =>
  parsePipeline(
    {
      name,
      version: 1,
      title: name,
      estimate: { simple: 1, complex: 1, premium: 1 },
      target: { seconds: 600, cost: 2.5 },
      request: { type: "object" },
      stages: stages.map((stage) => ({
        name: stage.name,
        kind: "noop",
        needs: stage.needs ?? [],
        timeout: "60s",
        retries: 2,
        backoff: "2s",
        estimated_cost: stage.cost ?? 0.5,
        exclusive: stage.exclusive ?? false,
        resources: { cores: 1, memory: "64MiB", scratch: "1MiB" },
      })),
    },
    name,
  );

const pipelines = (): Pipeline[] => [
  pipelineOf("single", [{ name: "only" }]),
  pipelineOf("pair", [{ name: "first" }, { name: "second", needs: ["first"], exclusive: true }]),
  pipelineOf("fan", [{ name: "left" }, { name: "right", exclusive: true }, { name: "join", needs: ["left", "right"] }]),
  // Its third stage passes the halt line of three dollars.
  pipelineOf("dear", [
    { name: "cheap" },
    { name: "dear", needs: ["cheap"], cost: 1.5 },
    { name: "dearer", needs: ["cheap"], cost: 1.5 },
  ]),
];

export const openRig = async (): Promise<Rig> => {
  const database = await openSimulatedDatabase();
  const dir = await mkdtemp(join(tmpdir(), "renderplane-simulation-"));
  const folder = await openArtifactFolder(join(dir, "artifacts"));
  const prices = await loadPrices(undefined);
  const authority: Authority = (await openAuthority(undefined)).authority;
  const known = pipelines();
  const timings = timingsOf(heartbeatMs);
  const names = Array.from({ length: lanes }, (_, n) => `lane ${n}`);
  return {
    database,
    lanes: names.map((name) => ({ name, db: database.connect(name) })),
    pipelines: known,
    timings,
    context: ({ random, stored, publish, ring, log }) => {
      const artifacts: ArtifactStore = { ...folder, size: async (sha256) => stored.get(sha256) };
      return {
        bus: {
          name: "bus (simulated)",
          start: async () => {},
          stop: async () => {},
          ring,
          on: () => () => {},
          publish,
          subscribe: () => () => {},
        },
        pipelines: new Map(known.map((p) => [p.name, p])),
        prices,
        timings,
        artifacts,
        signer: createAddressSigner({ baseUrl: () => "http://127.0.0.1:1", secret: Buffer.alloc(32) }),
        authority,
        log: pino({ level: "warn" }, { write: log }),
        newId: (prefix) => `${prefix}_${idLetters(random)}`,
        settings: {
          queueDepth: 100,
          costLimits: { warning: 2_500_000n, critical: 2_800_000n, halt: 3_000_000n },
          concurrency: { jobs: 100, jobsPerUser: 100, attemptsPerProvider: new Map() },
        },
      };
    },
    close: async () => {
      await database.close();
      await rm(dir, { recursive: true, force: true });
    },
  };
};
