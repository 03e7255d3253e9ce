// The settings of the control plane: one schema, one reader of the environment. docs/configuration.md is made from this table.

import { readEnvironment, type Values } from "@renderplane/proto/kernel/process/environment.ts";
import { microsFromDollars } from "@renderplane/proto/kernel/units.ts";
import { z } from "zod";

const listen = (fallback: string) =>
  z
    .string()
    .regex(/^(\[[0-9a-fA-F:]+\]|[^:]+):\d{1,5}$/, "must be address:port")
    .default(fallback);
const dollars = (fallback: number) =>
  z.coerce.number().min(0).max(100_000).default(fallback).transform(microsFromDollars);

export const settings = {
  dataDir: {
    env: "RENDERPLANE_DATA_DIR",
    schema: z.string().default(".renderplane/control-plane"),
    help: "Folder of the embedded database and of the artifacts.",
  },
  artifactsDir: {
    env: "RENDERPLANE_ARTIFACTS_DIR",
    schema: z.string().optional(),
    help: "Folder of the artifacts, the same for every replica. Default: artifacts in the data folder.",
  },
  databaseUrl: {
    env: "DATABASE_URL",
    schema: z.url({ protocol: /^postgres(ql)?$/ }).optional(),
    secret: true,
    help: "PostgreSQL 15 or newer; without it the packaged server runs in the data folder.",
  },
  redisUrl: {
    env: "REDIS_URL",
    schema: z.url({ protocol: /^rediss?$/ }).optional(),
    secret: true,
    help: "Redis 7 or newer for bells and live messages; without it they stay in memory.",
  },
  listen: {
    env: "RENDERPLANE_LISTEN",
    schema: listen("127.0.0.1:8000"),
    help: "Address of the HTTP API. Anybody who reaches it may submit jobs: keep it on loopback or behind a proxy that signs people in.",
  },
  agentListen: {
    env: "RENDERPLANE_GRPC_LISTEN",
    schema: listen("127.0.0.1:7443"),
    help: "Address that enrolled agents dial (mTLS).",
  },
  enrolListen: {
    env: "RENDERPLANE_ENROL_LISTEN",
    schema: listen("127.0.0.1:7444"),
    help: "Address that new agents dial with a join token (TLS).",
  },
  publicUrl: {
    env: "RENDERPLANE_PUBLIC_URL",
    schema: z.url({ protocol: /^https?$/ }).optional(),
    help: "How people and agents reach the HTTP API; signed addresses start with it. Default: http:// and the listen address.",
  },
  serverNames: {
    env: "RENDERPLANE_SERVER_NAMES",
    schema: z
      .string()
      .default("")
      .transform((text) =>
        text
          .split(",")
          .map((n) => n.trim())
          .filter((n) => n !== ""),
      ),
    help: "Names and addresses, separated by commas, that agents use to reach this control plane.",
  },
  agentAddress: {
    env: "RENDERPLANE_AGENT_ADDRESS",
    schema: z
      .string()
      .regex(/^(\[[0-9a-fA-F:]+\]|[^:/]+):\d{1,5}$/, "must be host:port")
      .optional(),
    help: "How agents reach this very replica; they are told the addresses of all. Default: the listen address.",
  },
  pipelinesDir: {
    env: "RENDERPLANE_PIPELINES_DIR",
    schema: z.string().optional(),
    help: "A folder of more pipelines (YAML); one of the same name replaces the shipped one.",
  },
  pricesFile: {
    env: "RENDERPLANE_PRICES_FILE",
    schema: z.string().optional(),
    help: "A price table instead of the shipped one (control-plane/prices.yaml).",
  },
  queueDepth: {
    env: "RENDERPLANE_QUEUE_MAX_DEPTH",
    schema: z.coerce.number().int().min(1).max(1_000_000).default(100),
    help: "Jobs that may wait; one more is refused with 429.",
  },
  maxRunningJobs: {
    env: "RENDERPLANE_MAX_RUNNING_JOBS",
    schema: z.coerce.number().int().min(1).max(1_000_000).default(7),
    help: "Jobs that may be in work at once; more wait in the queue.",
  },
  maxRunningJobsPerUser: {
    env: "RENDERPLANE_MAX_RUNNING_JOBS_PER_USER",
    schema: z.coerce.number().int().min(1).max(1_000_000).default(1_000_000),
    help: "The same for the jobs of one user.",
  },
  providerLimits: {
    env: "RENDERPLANE_PROVIDER_LIMITS",
    schema: z
      .string()
      .regex(/^([a-z0-9_.-]+=\d{1,6}(,[a-z0-9_.-]+=\d{1,6})*)?$/, "must be like tts.openai=4,media_api.pexels=2")
      .default("")
      .transform(
        (text) =>
          new Map(
            text
              .split(",")
              .filter((pair) => pair !== "")
              .map((pair) => [pair.slice(0, pair.indexOf("=")), Number(pair.slice(pair.indexOf("=") + 1))] as const),
          ) as ReadonlyMap<string, number>,
      ),
    help: "Attempts that may use a provider at once, e.g. tts.openai=4,media_api.pexels=2; others have no limit.",
  },
  heartbeatMs: {
    env: "RENDERPLANE_HEARTBEAT_SECONDS",
    schema: z.coerce
      .number()
      .min(0.1)
      .max(60)
      .default(5)
      .transform((seconds) => Math.round(seconds * 1000)),
    help: "How often hosts report. Every window follows from it: suspect after 3, lease of 6, lost after 12 heartbeats.",
  },
  keepJobsMs: {
    env: "RENDERPLANE_KEEP_JOBS_DAYS",
    schema: z.coerce
      .number()
      .min(1)
      .max(3_650)
      .default(90)
      .transform((days) => Math.round(days * 86_400_000)),
    help: "How long ended jobs stay, with their costs and files; the sums of each day stay for good.",
  },
  costWarning: {
    env: "RENDERPLANE_COST_WARNING",
    schema: dollars(2.5),
    help: "Dollars a job may cost before a warning.",
  },
  costCritical: {
    env: "RENDERPLANE_COST_CRITICAL",
    schema: dollars(2.8),
    help: "Dollars a job may cost before a critical alert.",
  },
  costHalt: {
    env: "RENDERPLANE_COST_HALT",
    schema: dollars(3),
    help: "Dollars at which a job stops before its next stage.",
  },
  replica: {
    env: "RENDERPLANE_REPLICA",
    schema: z
      .string()
      .regex(/^[a-z0-9][a-z0-9.-]{0,62}$/)
      .default("main"),
    help: "Name of this replica; each replica of one database needs its own.",
  },
  logLevel: {
    env: "LOG_LEVEL",
    schema: z
      .string()
      .default("info")
      .transform((t) => t.toLowerCase())
      .pipe(z.enum(["trace", "debug", "info", "warn", "error", "fatal"])),
    help: "trace, debug, info, warn, error or fatal.",
  },
} as const;

/** Settings of the agent and of the scripts: known, but not read here. */
export const foreign = [
  "RENDERPLANE_AGENT_DIR",
  "RENDERPLANE_AGENT_NAME",
  "RENDERPLANE_ENROL_ADDRESS",
  "RENDERPLANE_JOIN_TOKEN",
  "RENDERPLANE_JOIN_TOKEN_FILE",
  "RENDERPLANE_SESSION_ADDRESS",
  "RENDERPLANE_SCRIPT_MODEL",
  "RENDERPLANE_TTS_PROVIDER",
  "RENDERPLANE_TTS_MODEL",
  "RENDERPLANE_TTS_VOICE",
  "RENDERPLANE_MEDIA_LIBRARY",
  "RENDERPLANE_SERVER",
  "RENDERPLANE_TEST_BACKENDS",
  "RENDERPLANE_KEEP_ATTEMPTS",
  "RENDERPLANE_AGENT_TAGS",
  "RENDERPLANE_AGENT_TRIAL_STAGES",
  "RENDERPLANE_DRAIN_SECONDS",
];

export type Config = Values<typeof settings>;
export const readConfig = (env: NodeJS.ProcessEnv): Config => readEnvironment(settings, env, foreign);
