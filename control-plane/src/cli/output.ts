// How the command line prints. stdout carries results, stderr everything else. Colour and moving bars only for a person:
// a terminal, not TERM=dumb, not CI, not NO_COLOR; FORCE_COLOR and CLICOLOR_FORCE say otherwise.
// --json prints the whole answer; --json a,b picks fields, one object or a list of them.
import { styleText } from "node:util";
import type { CliFailure } from "./failure.ts";

export type Output = {
  /** A line of the result. */
  result(text: string): void;
  /** A line for the person: progress, hints. */
  note(text: string): void;
  /** The answer as JSON when --json was given; false when it was not. */
  json(value: unknown): boolean;
  readonly isLive: boolean;
  readonly paint: (style: "bold" | "dim" | "red" | "green" | "yellow" | "cyan", text: string) => string;
  readonly columns: number;
};

/** A stream of the process, or a test's. */
export type TextStream = NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number };
export type Streams = { readonly stdout: TextStream; readonly stderr: TextStream };

export const createOutput = (options: {
  readonly streams: Streams;
  readonly env: NodeJS.ProcessEnv;
  /** undefined: text; "": all of it; otherwise the fields. */
  readonly json: string | undefined;
  readonly noColor: boolean;
}): Output => {
  const { streams, env } = options;
  const isForced = isOn(env.FORCE_COLOR) || isOn(env.CLICOLOR_FORCE);
  const isPlain = options.noColor || isSet(env.NO_COLOR) || env.TERM === "dumb" || isSet(env.CI);
  const hasColor = !options.noColor && (isForced || (streams.stdout.isTTY === true && !isPlain));
  return {
    result: (text) => void streams.stdout.write(`${text}\n`),
    note: (text) => void streams.stderr.write(`${text}\n`),
    json: (value) => {
      if (options.json === undefined) return false;
      streams.stdout.write(
        `${JSON.stringify(options.json === "" ? value : pick(value, options.json.split(",")), null, 2)}\n`,
      );
      return true;
    },
    isLive: streams.stderr.isTTY === true && !isPlain,
    paint: (style, text) => (hasColor ? styleText(style, text, { validateStream: false }) : text),
    columns: streams.stdout.columns ?? 100,
  };
};

const isSet = (value: string | undefined): boolean => value !== undefined && value !== "";
const isOn = (value: string | undefined): boolean => isSet(value) && value !== "0";

const pick = (value: unknown, fields: readonly string[]): unknown => {
  if (Array.isArray(value)) return value.map((item) => pick(item, fields));
  if (typeof value !== "object" || value === null) return value;
  const from = value as Record<string, unknown>;
  return Object.fromEntries(fields.map((field) => [field, from[field] ?? null]));
};

/** Columns padded to their widest cell; the last one is not padded. */
export const table = (head: readonly string[], rows: readonly (readonly string[])[]): string => {
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map((row) => (row[column] ?? "").length)));
  const line = (row: readonly string[]) =>
    row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join("  ");
  return [head.map((cell) => cell.toUpperCase()), ...rows].map(line).join("\n");
};

/** "2 min ago" for people; the exact time is in --json. */
export const ago = (iso: string | null, now: Date): string => {
  if (iso === null) return "never";
  const seconds = Math.max(0, Math.round((now.getTime() - new Date(iso).getTime()) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
};

/** The text of an error: the sentence, each wrong field, what to do next, and the id of the server's log line. */
export const describeFailure = (failure: CliFailure): string =>
  [
    failure.message,
    ...failure.fields.map((field) => `  ${field.pointer || "/"}: ${field.detail}`),
    ...(failure.next === "" ? [] : [`Try: ${failure.next}`]),
    ...(failure.traceId === "" ? [] : [`trace: ${failure.traceId}`]),
  ].join("\n");
