// Turns what a validator found into sentences for the person who sent it: the field, what was expected, what was sent.
// The only place that words validation; both the HTTP edge and the pipelines use it.
import type { FieldError } from "@renderplane/proto/kernel/errors.ts";
import type { z } from "zod";

type Issue = z.core.$ZodIssue;

export const fieldErrors = (issues: readonly Issue[], body: unknown, prefix: readonly string[] = []): FieldError[] =>
  issues.flatMap((issue) => {
    const path = [...prefix, ...issue.path.map(String)];
    if (issue.code === "unrecognized_keys")
      return issue.keys.map((key) => ({
        pointer: pointerOf([...path, key]),
        detail: `${nameOf([...path, key])} is not a field here; remove it or check its spelling`,
      }));
    return [{ pointer: pointerOf(path), detail: `${nameOf(path)} ${sentence(issue, valueAt(body, issue.path))}` }];
  });

const sentence = (issue: Issue, value: unknown): string => {
  switch (issue.code) {
    case "invalid_type":
      return value === undefined
        ? `is missing; ${aOrAn(issue.expected)} is needed`
        : `must be ${aOrAn(issue.expected)}, got ${kindOf(value)}`;
    case "too_small":
      return issue.origin === "string"
        ? Number(issue.minimum) <= 1
          ? "must not be empty"
          : `must have at least ${issue.minimum} characters`
        : issue.origin === "array"
          ? `must have ${issue.minimum} or more entries`
          : `must be at least ${issue.minimum}, got ${String(value)}`;
    case "too_big":
      return issue.origin === "string"
        ? `must have at most ${issue.maximum} characters, got ${String(value).length}; shorten it`
        : issue.origin === "array"
          ? `must have at most ${issue.maximum} entries, got ${Array.isArray(value) ? value.length : "more"}`
          : `must be at most ${issue.maximum}, got ${String(value)}`;
    case "invalid_value":
      return `must be one of ${issue.values.map(String).join(", ")}, got ${shown(value)}`;
    case "invalid_format":
      return `must match ${"pattern" in issue ? issue.pattern : issue.format}, got ${shown(value)}`;
    default:
      return `is not valid: ${issue.message}`;
  }
};

const pointerOf = (path: readonly string[]): string =>
  `/${path.map((p) => p.replaceAll("~", "~0").replaceAll("/", "~1")).join("/")}`;
const nameOf = (path: readonly string[]): string => path.join(".") || "the body";
const kindOf = (value: unknown): string =>
  value === null ? "null" : Array.isArray(value) ? "an array" : aOrAn(typeof value);
const aOrAn = (word: string): string => `${/^[aeiou]/.test(word) ? "an" : "a"} ${word}`;
/** Bounded: what was sent may be megabytes. */
const shown = (value: unknown): string => {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
};
const valueAt = (body: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>(
    (at, key) => (at !== null && typeof at === "object" ? (at as Record<PropertyKey, unknown>)[key] : undefined),
    body,
  );
