// What JSON can be stored. PostgreSQL keeps no NUL and no half of a character (a lone surrogate) in a text, and a value that is
// nested without end overflows the stack of whoever walks it, here or there. One check, where JSON from outside comes in.
import type { FieldError } from "@renderplane/proto/kernel/errors.ts";

/** No request and no result is nested more than a few levels; deeper ones are refused. */
const maxDepth = 32;

type Place = { readonly key: string; readonly above: Place | undefined };
type Open = { readonly value: unknown; readonly place: Place | undefined; readonly depth: number };

/** The first thing in a parsed JSON value that cannot be stored; undefined when all of it can. Walks without recursion. */
export const unstorable = (root: unknown): FieldError | undefined => {
  const open: Open[] = [{ value: root, place: undefined, depth: 0 }];
  for (let at = open.pop(); at !== undefined; at = open.pop()) {
    const { value, place, depth } = at;
    if (typeof value === "string") {
      const wrong = wrongText(value);
      if (wrong) return errorAt(place, `has ${wrong}`);
    }
    if (typeof value !== "object" || value === null) continue;
    if (depth >= maxDepth) return errorAt(place, `is nested in more than ${maxDepth} levels`);
    for (const [key, inner] of Object.entries(value)) {
      const wrong = wrongText(key);
      if (wrong) return errorAt(place, `has a key with ${wrong}`);
      open.push({ value: inner, place: { key, above: place }, depth: depth + 1 });
    }
  }
  return undefined;
};

const wrongText = (text: string): string | undefined =>
  text.includes("\u0000")
    ? "a NUL character"
    : text.isWellFormed()
      ? undefined
      : "half of a character (a lone surrogate)";

const errorAt = (place: Place | undefined, what: string): FieldError => {
  const path: string[] = [];
  for (let at = place; at !== undefined; at = at.above) path.unshift(at.key);
  const pointer = `/${path.map((key) => key.replaceAll("~", "~0").replaceAll("/", "~1")).join("/")}`;
  return { pointer, detail: `${path.join(".") || "the body"} ${what}` };
};
