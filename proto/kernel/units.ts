// Money, time and size in the units that code and SQL carry: micro-dollars (bigint), milliseconds, bytes.
// Floats never hold money: 0.1 + 0.2 dollars would not settle.

/** Micro-dollars. 1 dollar is 1_000_000n. */
export type Micros = bigint;

/** Rounds half away from zero to a whole micro-dollar: never systematically in anybody's favour. */
export const microsFromDollars = (dollars: number): Micros => {
  if (!Number.isFinite(dollars)) throw new RangeError(`an amount of money must be finite, got ${dollars}`);
  return BigInt(Math.sign(dollars) * Math.round(Math.abs(dollars) * 1e6));
};
export const dollarsFromMicros = (micros: Micros): number => Number(micros) / 1e6;

/** "$0.0042", "$2.50": two decimals, more when the amount is below a cent and not zero. */
export const formatMicros = (micros: Micros): string => {
  const dollars = dollarsFromMicros(micros);
  const small = micros !== 0n && dollars > -0.01 && dollars < 0.01;
  return `$${dollars.toFixed(small ? 6 : 2)}`;
};

const durationUnits = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
/** "90s", "1.5m", "200ms" -> milliseconds. Throws RangeError on anything else. */
export const parseDurationMs = (text: string): number => {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text.trim());
  if (!match)
    throw new RangeError(`a duration is a number and one of ms, s, m, h, d (like 90s), got ${JSON.stringify(text)}`);
  return Math.round(Number(match[1]) * durationUnits[match[2] as keyof typeof durationUnits]);
};

const sizeUnits = { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3, TiB: 1024 ** 4 } as const;
/** "512MiB" -> bytes. Throws RangeError on anything else. */
export const parseBytes = (text: string): number => {
  const match = /^(\d+(?:\.\d+)?)(B|KiB|MiB|GiB|TiB)$/.exec(text.trim());
  if (!match)
    throw new RangeError(
      `a size is a number and one of B, KiB, MiB, GiB, TiB (like 512MiB), got ${JSON.stringify(text)}`,
    );
  return Math.round(Number(match[1]) * sizeUnits[match[2] as keyof typeof sizeUnits]);
};

/** "6.2 MB": decimal units, as file managers show them. */
export const formatBytes = (bytes: number): string => {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB", "TB"];
  const power = Math.min(units.length, Math.floor(Math.log10(bytes) / 3));
  return `${(bytes / 1000 ** power).toFixed(1)} ${units[power - 1]}`;
};

/** "1 h 04 m 12 s", "6 m 41 s", "3.2 s". */
export const formatDuration = (ms: number): string => {
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const total = Math.round(ms / 1000);
  const [h, m, s] = [Math.floor(total / 3600), Math.floor((total % 3600) / 60), total % 60];
  const two = (n: number) => String(n).padStart(2, "0");
  return h > 0 ? `${h} h ${two(m)} m ${two(s)} s` : `${m} m ${two(s)} s`;
};
