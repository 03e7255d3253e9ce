// A pipeline is data: the stages of a kind of job, what they need, what they may cost, and what a request may say.
// This file owns its schema, checks a request against it, and plans the stages of a job. Files are read elsewhere.
import type { FieldError } from "@renderplane/proto/kernel/errors.ts";
import { tagPattern } from "@renderplane/proto/kernel/limits.ts";
import { type Micros, microsFromDollars, parseBytes, parseDurationMs } from "@renderplane/proto/kernel/units.ts";
import { z } from "zod";
import { fieldErrors } from "./field-errors.ts";
import type { Complexity, JsonObject, ResourceNeed, StageSpec } from "./records.ts";

const parsed = <T>(parse: (text: string) => T) =>
  z.string().transform((text, ctx) => {
    try {
      return parse(text);
    } catch (error) {
      ctx.addIssue({ code: "custom", message: (error as Error).message });
      return z.NEVER;
    }
  });
/** An offer carries it as 32 bits of milliseconds; nothing that runs longer is one stage. */
const longestMs = 7 * 24 * 60 * 60_000;
const duration = parsed((text) => {
  const ms = parseDurationMs(text);
  if (ms > longestMs) throw new Error(`${text} is longer than 7 days, the most that a stage may last`);
  return ms;
});
const bytes = parsed(parseBytes);
const dollars = z.number().min(0).max(10_000).transform(microsFromDollars);
const name = z.string().regex(/^[a-z][a-z0-9_]{0,62}$/);

/** `expected`: a working GPU as long as the fleet has one, any host otherwise (placement decides, at every look). */
const gpuWord = z.enum(["none", "preferred", "expected", "required"]);
/** What a complexity needs other than the stage's own resources says. */
const change = z
  .strictObject({
    resources: z.strictObject({
      cores: z.number().min(0).max(1024).optional(),
      memory: bytes.optional(),
      scratch: bytes.optional(),
      gpu: gpuWord.optional(),
      gpu_memory: bytes.optional(),
    }),
  })
  .optional();

const stageSchema = z.strictObject({
  name,
  kind: name,
  needs: z.array(name).default([]),
  uploads: z.boolean().default(false),
  params: z.record(z.string(), z.unknown()).default({}),
  timeout: duration,
  /** Added for every thousand characters of the script after the first: a longer text is a longer video. */
  timeout_per_1000_characters: duration.default(0),
  retries: z.int().min(0).max(20),
  /** First pause before a retry; doubles each time up to five minutes. Requirements 002: 5 s. */
  backoff: duration.default(5_000),
  estimated_cost: dollars,
  providers: z.array(z.string()).default([]),
  /** Words that the host must all have. */
  tags: z.array(z.string().regex(tagPattern)).default([]),
  /** Two runs at once do harm: the agent stops it before its lease can be given away. */
  exclusive: z.boolean().default(false),
  resources: z.strictObject({
    cores: z.number().min(0).max(1024),
    memory: bytes,
    scratch: bytes,
    gpu: gpuWord.default("none"),
    gpu_memory: bytes.default(0),
  }),
  by_complexity: z.strictObject({ simple: change, complex: change, premium: change }).default({}),
});

const pipelineSchema = z.strictObject({
  name: z.string().regex(/^[a-z][a-z0-9-]{0,62}$/),
  version: z.int().min(1),
  title: z.string(),
  estimate: z.strictObject({ simple: dollars, complex: dollars, premium: dollars }),
  target: z.strictObject({ seconds: z.number().positive(), cost: dollars }),
  /** Its jobs that may be in work at once; absent: only the limits of the fleet and of a user hold. */
  max_running: z.int().min(1).max(1_000_000).optional(),
  uploads: z
    .strictObject({ min: z.int().min(0), max: z.int().min(0), media: z.array(z.enum(["video", "picture", "audio"])) })
    .default({ min: 0, max: 0, media: [] }),
  request: z.record(z.string(), z.unknown()),
  one_of: z.array(z.array(z.string()).min(1)).default([]),
  speakable: z.array(z.string()).default([]),
  providers: z
    .array(
      z.strictObject({
        stage: name,
        present: z.string(),
        absent: z.string().optional(),
        any: z.array(z.string()).min(1),
        setting: z.string(),
      }),
    )
    .default([]),
  stages: z.array(stageSchema).min(1).max(64),
});

export type Pipeline = z.output<typeof pipelineSchema> & { readonly requestSchema: z.ZodType };

/** Validates one parsed YAML file. Throws Error with every problem: a broken pipeline must stop the start, not a job. */
export const parsePipeline = (source: unknown, origin: string): Pipeline => {
  const result = pipelineSchema.safeParse(source);
  if (!result.success)
    throw new Error(
      `${origin}: ${fieldErrors(result.error.issues, source)
        .map((e) => e.detail)
        .join("; ")}`,
    );
  const pipeline = result.data;
  const seen = new Set<string>();
  for (const stage of pipeline.stages) {
    if (seen.has(stage.name)) throw new Error(`${origin}: the stage ${stage.name} is there twice`);
    for (const need of stage.needs)
      if (!seen.has(need)) throw new Error(`${origin}: ${stage.name} needs ${need}, which must stand before it`);
    seen.add(stage.name);
  }
  for (const rule of pipeline.providers)
    if (!seen.has(rule.stage))
      throw new Error(`${origin}: providers name the stage ${rule.stage}, which does not exist`);
  return { ...pipeline, requestSchema: z.fromJSONSchema(pipeline.request as Parameters<typeof z.fromJSONSchema>[0]) };
};

/** The request with its defaults, or what is wrong with it, every field at once. */
export const checkRequest = (
  pipeline: Pipeline,
  request: unknown,
):
  | { readonly ok: true; readonly request: JsonObject }
  | { readonly ok: false; readonly errors: readonly FieldError[] } => {
  const result = pipeline.requestSchema.safeParse(request);
  // A field with several broken rules is named once, by its first.
  const errors = result.success ? [] : firstOfEach(fieldErrors(result.error.issues, request, ["request"]));
  if (request === null || typeof request !== "object" || Array.isArray(request)) return { ok: false, errors };
  const given = request as JsonObject;
  for (const group of pipeline.one_of)
    if (!group.some((field) => given[field] !== undefined))
      errors.push({ pointer: "/request", detail: `request needs one of ${group.join(", ")}; none was given` });
  for (const field of pipeline.speakable) {
    const text = given[field];
    if (typeof text === "string" && text !== "" && !/[\p{L}\p{N}]/u.test(text))
      errors.push({
        pointer: `/request/${field}`,
        detail: `request.${field} must contain letters or digits; there is nothing to say in it`,
      });
  }
  return errors.length > 0 || !result.success
    ? { ok: false, errors }
    : { ok: true, request: result.data as JsonObject };
};

const firstOfEach = (errors: readonly FieldError[]): FieldError[] =>
  [...new Map([...errors].reverse().map((e) => [e.pointer, e])).values()].reverse();

/** The providers that this request makes necessary, by stage, with the setting to add when no host has them. */
export const neededProviders = (pipeline: Pipeline, request: JsonObject) =>
  pipeline.providers.filter(
    (rule) => request[rule.present] !== undefined && (rule.absent === undefined || request[rule.absent] === undefined),
  );

export type PlannedStage = {
  readonly name: string;
  readonly kind: string;
  readonly position: number;
  readonly openNeeds: number;
  readonly estimatedMicros: Micros;
  readonly spec: StageSpec;
  /** Equal for stages that fit on the same hosts. */
  readonly shape: string;
};

/**
 * The stages of one job; everything they need is copied, so a changed pipeline never changes a running job. The complexity is
 * nothing but a choice of resources: requirements 002's cpu and gpu workers are hosts that have what a stage needs.
 */
export const planStages = (
  pipeline: Pipeline,
  request: JsonObject,
  complexity: Complexity = "simple",
): PlannedStage[] => {
  const providers = neededProviders(pipeline, request);
  return pipeline.stages.map((stage, position) => {
    const spec: StageSpec = {
      needs: stage.needs,
      uploads: stage.uploads,
      params: stage.params as JsonObject,
      timeoutMs: stage.timeout + Math.round(stage.timeout_per_1000_characters * extraThousands(request)),
      retries: stage.retries,
      backoffMs: stage.backoff,
      providers: [
        ...stage.providers,
        ...providers.filter((rule) => rule.stage === stage.name).flatMap((rule) => rule.any),
      ],
      tags: stage.tags,
      exclusive: stage.exclusive,
      resources: resourcesOf(stage, complexity),
    };
    return {
      name: stage.name,
      kind: stage.kind,
      position,
      openNeeds: stage.needs.length,
      estimatedMicros: stage.estimated_cost,
      spec,
      shape: shapeOf(stage.kind, spec),
    };
  });
};

const resourcesOf = (stage: Pipeline["stages"][number], complexity: Complexity): ResourceNeed => {
  const usual = stage.resources;
  const other = stage.by_complexity[complexity]?.resources;
  const gpu = other?.gpu ?? usual.gpu;
  return {
    cores: other?.cores ?? usual.cores,
    memoryBytes: other?.memory ?? usual.memory,
    scratchBytes: other?.scratch ?? usual.scratch,
    gpu: gpu === "expected" ? "required" : gpu,
    gpuMemoryBytes: gpu === "none" ? 0 : (other?.gpu_memory ?? usual.gpu_memory),
    ...(gpu === "expected" ? { cpuWithoutGpus: true } : {}),
  };
};

/** Readable, so that a person sees in the table what waits: the words that the filters of placement read. */
export const shapeOf = (kind: string, { providers, tags, resources }: StageSpec): string =>
  JSON.stringify([kind, providers, tags, Object.values(resources)]);

/** Thousands of characters of the script beyond the first thousand (about a minute of speech). */
const extraThousands = ({ script }: JsonObject): number =>
  typeof script === "string" ? Math.max(0, script.length - 1000) / 1000 : 0;

/** What a job is expected to cost before there is history: the pipeline's figure for its complexity. */
export const estimateMicros = (pipeline: Pipeline, complexity: Complexity): Micros => pipeline.estimate[complexity];
