// Makes a history that fails shorter: events, the parts of woven ones and their faults are left out as long as it still breaks the
// same rule. The rest is what a person has to read.
import type { Event } from "./plan.ts";

/** Plays of one shrink at most; what is found by then is printed. */
const maxPlays = 150;

/** Two histories break the same rule when what was broken begins with the same words; ids differ. */
export const ruleOf = (broken: string): string =>
  broken
    .replace(/[vah]_[0-9A-HJKMNP-TV-Z]{26}/g, "…")
    .replace(/\d+/g, "n")
    .slice(0, 60);

export const shrink = async (
  events: readonly Event[],
  breaks: (events: readonly Event[]) => Promise<boolean>,
): Promise<Event[]> => {
  let best = [...events];
  let plays = 0;
  const take = async (candidate: Event[]): Promise<boolean> => {
    if (plays >= maxPlays) return false;
    plays++;
    if (!(await breaks(candidate))) return false;
    best = candidate;
    return true;
  };
  for (
    let size = Math.ceil(best.length / 2);
    size >= 1 && plays < maxPlays;
    size = size === 1 ? 0 : Math.ceil(size / 2)
  )
    for (let from = best.length - size; from > -size; from -= size) {
      const start = Math.max(0, from);
      await take([...best.slice(0, start), ...best.slice(from + size)]);
    }
  const simplify = async (n: number): Promise<boolean> => {
    for (const simpler of simplerThan(best[n])) if (await take(best.with(n, simpler))) return true;
    return false;
  };
  // What became simpler may become simpler still: a part of woven events has a fault of its own.
  for (let n = best.length - 1; n >= 0; n--) while (await simplify(n));
  for (let n = best.length - 1; n >= 0; n--) await take(best.toSpliced(n, 1));
  return best;
};

/** The simplest first. */
const simplerThan = (event: Event | undefined): Event[] => {
  if (event?.kind === "together")
    return [
      ...event.events,
      ...(event.events.length > 2
        ? event.events.map((_, n) => ({ ...event, events: event.events.toSpliced(n, 1) }))
        : []),
    ];
  if (event !== undefined && "fault" in event && event.fault) {
    const { fault: _, ...rest } = event;
    return [rest as Event];
  }
  if (event?.kind === "flow" && event.struck) return [{ kind: "flow" }];
  return [];
};
