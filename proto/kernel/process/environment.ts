// The one reader of the environment: a zod schema a process, unknown RENDERPLANE_* names refused with the nearest known one,
// NAME_FILE read for any secret, and a redacted copy for the start-up log and the reference table in docs/configuration.md.
import { readFileSync } from "node:fs";
import { z } from "zod";

export type Setting = {
  readonly env: string;
  readonly schema: z.ZodType;
  readonly secret?: boolean;
  readonly help: string;
};
export type Settings = { readonly [key: string]: Setting };
export type Values<S extends Settings> = { readonly [K in keyof S]: z.output<S[K]["schema"]> };

export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

/** Reads and validates. Throws one ConfigError that lists every problem, one sentence each. */
export const readEnvironment = <S extends Settings>(
  settings: S,
  env: NodeJS.ProcessEnv,
  /** RENDERPLANE_* names that belong to the other process or to the scripts. */
  foreign: readonly string[] = [],
): Values<S> => {
  const problems: string[] = [];
  const known = new Set([...Object.values(settings).flatMap((s) => [s.env, `${s.env}_FILE`]), ...foreign]);
  for (const name of Object.keys(env)) {
    if (name.startsWith("RENDERPLANE_") && !known.has(name))
      problems.push(`${name} is not a setting; did you mean ${nearest(name, [...known])}?`);
  }
  const values: Record<string, unknown> = {};
  for (const [key, setting] of Object.entries(settings)) {
    const raw = readSetting(setting.env, env, problems);
    const parsed = setting.schema.safeParse(raw === "" ? undefined : raw);
    if (parsed.success) values[key] = parsed.data;
    else
      problems.push(
        `${setting.env}: ${parsed.error.issues[0]?.message ?? "not valid"}${setting.secret || raw === undefined ? "" : `, got ${JSON.stringify(raw)}`}. ${setting.help}`,
      );
  }
  if (problems.length > 0) throw new ConfigError(problems.join("\n"));
  return values as Values<S>;
};

const readSetting = (name: string, env: NodeJS.ProcessEnv, problems: string[]): string | undefined => {
  const file = env[`${name}_FILE`];
  if (file === undefined) return env[name];
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    problems.push(`${name}_FILE names ${file}, which cannot be read`);
    return undefined;
  }
};

/** The values as they may be logged: secrets as "***". */
export const redacted = <S extends Settings>(settings: S, values: Values<S>): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(settings).map(([key, s]) => [s.env, s.secret && values[key] !== undefined ? "***" : values[key]]),
  );

const nearest = (name: string, known: readonly string[]): string =>
  known.map((k) => [distance(name, k), k] as const).sort((a, b) => a[0] - b[0])[0]?.[1] ?? "(none)";

/** Levenshtein distance; names are short, so the plain table will do. */
const distance = (a: string, b: string): number => {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const above = row;
    row = [i];
    for (let j = 1; j <= b.length; j++)
      row[j] = Math.min(
        (above[j] ?? 0) + 1,
        (row[j - 1] ?? 0) + 1,
        (above[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1),
      );
  }
  return row[b.length] ?? 0;
};

/** "true"/"false"/"1"/"0"/"yes"/"no". */
export const flag = z
  .enum(["true", "false", "1", "0", "yes", "no"])
  .transform((t) => t === "true" || t === "1" || t === "yes");
export const port = z.coerce.number().int().min(0).max(65535);
