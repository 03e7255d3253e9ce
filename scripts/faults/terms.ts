// I13 from outside: looks at who leads which loop, again and again, and says when a term went back or changed hands without growing.
// A look that fails says nothing: the database is away on purpose here.
import { rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";

type Lead = { readonly loop: string; readonly holder: string; readonly term: bigint };

const lookMs = 200;

export const watchTerms = (
  look: () => Promise<readonly Lead[]>,
): { broken(): string[]; changes(): number; stop(): Promise<void> } => {
  const seen = new Map<string, Lead>();
  const broken: string[] = [];
  let changes = 0;
  const watching = rhythm({
    name: "terms",
    periodMs: lookMs,
    turn: async () => {
      for (const now of await look()) {
        const before = seen.get(now.loop);
        seen.set(now.loop, now);
        if (!before) continue;
        if (now.holder !== before.holder) changes++;
        if (now.term < before.term) broken.push(`I13 the term of ${now.loop} went from ${before.term} to ${now.term}`);
        if (now.holder !== before.holder && now.term === before.term)
          broken.push(`I13 ${now.loop} changed hands within term ${now.term}`);
      }
    },
    onError: () => {},
  });
  void watching.start();
  return { broken: () => broken, changes: () => changes, stop: () => watching.stop() };
};
