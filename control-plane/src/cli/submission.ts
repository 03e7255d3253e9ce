// Builds the body of a submission from a file, stdin and -f options. The server validates it; here only what the server cannot
// know is checked: the file, the form of -f, the media on this disk.
import { openAsBlob } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { userInfo } from "node:os";
import { basename } from "node:path";
import { CliFailure, exitCodes } from "./failure.ts";

export type SubmissionBody = { readonly [key: string]: unknown; readonly request: { readonly [key: string]: unknown } };

/** Keys of -f that belong to the job itself; every other key is a field of the pipeline's request. */
const jobKeys = new Set([
  "pipeline",
  "user_id",
  "channel_id",
  "priority",
  "complexity",
  "external_id",
  "cost_limit",
  "not_before",
  "deadline",
  "on_deadline",
]);
const defaultPipeline = "narrated-video";

export const buildSubmission = async (options: {
  /** Text of the file or of stdin; undefined when neither was given. */
  readonly text: string | undefined;
  readonly source: string;
  readonly fields: readonly string[];
  readonly pipeline: string | undefined;
  readonly priority: string | undefined;
  readonly complexity: string | undefined;
}): Promise<SubmissionBody> => {
  const body: Record<string, unknown> = options.text === undefined ? {} : parseJob(options.text, options.source);
  const request: Record<string, unknown> = { ...(isObject(body.request) ? body.request : {}) };
  if (body.request !== undefined && !isObject(body.request))
    throw new CliFailure(exitCodes.usage, `${options.source}: "request" must be an object`);
  for (const field of options.fields) {
    const [key, value] = await parseField(field);
    if (jobKeys.has(key)) body[key] = value;
    else request[key] = value;
  }
  if (options.pipeline !== undefined) body.pipeline = options.pipeline;
  if (options.priority !== undefined) body.priority = numberOr(options.priority);
  if (options.complexity !== undefined) body.complexity = options.complexity;
  body.pipeline ??= defaultPipeline;
  body.user_id ??= userName();
  body.channel_id ??= "default";
  return { ...body, request };
};

const parseJob = (text: string, source: string): Record<string, unknown> => {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new CliFailure(exitCodes.usage, `${source} is not JSON: ${error instanceof Error ? error.message : error}`, {
      next: "compare it with examples/narrated-video.json",
    });
  }
  if (!isObject(value)) throw new CliFailure(exitCodes.usage, `${source} must hold one JSON object`);
  return { ...value };
};

/** key=value: true, false, numbers, lists and objects are read as JSON, the rest is text; key=@FILE is the text of a file. */
const parseField = async (field: string): Promise<[string, unknown]> => {
  const equals = field.indexOf("=");
  if (equals <= 0)
    throw new CliFailure(exitCodes.usage, `-f needs key=value, got ${JSON.stringify(field)}`, {
      next: '-f prompt="Night sky facts"',
    });
  const [key, text] = [field.slice(0, equals), field.slice(equals + 1)];
  if (text.startsWith("@")) return [key, await readText(text.slice(1), `-f ${key}`)];
  if (!/^(true|false|null|-?\d|\[|\{)/.test(text)) return [key, text];
  try {
    return [key, JSON.parse(text)];
  } catch {
    return [key, text];
  }
};

export const readText = async (path: string, what: string): Promise<string> => {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw new CliFailure(exitCodes.usage, `${what}: ${path} cannot be read (${(error as { code?: string }).code})`);
  }
};

/** The job and its files as a form; files are streamed from disk while they are sent. */
export const formOf = async (body: SubmissionBody, media: readonly string[]): Promise<FormData> => {
  const form = new FormData();
  form.set("job", new Blob([JSON.stringify(body)], { type: "application/json" }));
  for (const path of media) {
    const facts = await stat(path).catch(() => undefined);
    if (!facts?.isFile()) throw new CliFailure(exitCodes.usage, `--media: there is no file ${path}`);
    if (facts.size === 0) throw new CliFailure(exitCodes.usage, `--media: ${path} is empty`);
    form.append("media", await openAsBlob(path), basename(path));
  }
  return form;
};

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const numberOr = (text: string): unknown => (/^-?\d+$/.test(text) ? Number(text) : text);
const userName = (): string => {
  try {
    return userInfo().username;
  } catch {
    // A container may run as a uid without a name.
    return `uid-${process.getuid?.() ?? 0}`;
  }
};
