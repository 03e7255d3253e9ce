// Runs several operations at once, statement by statement: every strand stops at each of its gates, and the order in which they
// are let through follows from a seed. A strand that waits for a lock of another one is left waiting until that one moves on.
// Invariant: nothing here depends on how long a statement takes, so the same order gives the same history.
import { setTimeout as pause, setImmediate as turn } from "node:timers/promises";
import type { Gates } from "../../control-plane/src/testing/statement-gates.ts";
import type { Random } from "./random.ts";

/** A statement that takes longer may be waiting for a lock: the database is asked. */
const soonMs = 2;
/** Nothing of the simulation takes this long; a strand that stands still is a fault of the simulation itself. */
const standstillMs = 30_000;

export type Strand = {
  /** Gates that stop at each gate before they ask the inner ones. */
  readonly weave: (inner: Gates) => Gates;
  /** What was let through without a statement is over. */
  readonly landed: () => void;
  readonly begin: (run: () => Promise<void>) => void;
};
export type Loom = {
  /** `name`: that of the strand's connections. */
  readonly strand: (name: string) => Strand;
  readonly run: () => Promise<{ readonly isDeadlocked: boolean }>;
};

type Thread = { readonly name: string; readonly waiting: (() => void)[]; flying: number; isDone: boolean };

export const createLoom = (
  random: Random,
  blocked: (names: readonly string[]) => Promise<ReadonlySet<string>>,
): Loom => {
  const threads: Thread[] = [];
  const starts: (() => void)[] = [];
  const failures: unknown[] = [];
  let wake = () => {};

  const strand: Loom["strand"] = (name) => {
    const thread: Thread = { name, waiting: [], flying: 0, isDone: false };
    threads.push(thread);
    const landed = () => {
      thread.flying--;
      wake();
    };
    return {
      weave: (inner) => ({
        before: async (gate) => {
          await new Promise<void>((go) => {
            thread.waiting.push(go);
            wake();
          });
          await inner.before(gate);
          thread.flying++;
        },
        after: (gate) => {
          inner.after(gate);
          landed();
        },
        committed: () => inner.committed(),
      }),
      landed,
      begin: (run) => {
        starts.push(() => {
          run()
            .catch((error: unknown) => failures.push(error))
            .finally(() => {
              thread.isDone = true;
              wake();
            });
        });
      },
    };
  };

  const isAtGate = (t: Thread) => t.isDone || (t.flying === 0 && t.waiting.length > 0);
  /** Until every strand is over, at a gate, or waits for a lock. Answers those that wait for a lock. */
  const settle = async (): Promise<ReadonlySet<Thread>> => {
    const end = performance.now() + standstillMs;
    for (;;) {
      const changed = new Promise<"changed">((go) => {
        wake = () => go("changed");
      });
      await turn();
      const moving = threads.filter((t) => !isAtGate(t));
      if (moving.length === 0) return new Set();
      if ((await Promise.race([changed, pause(soonMs)])) === "changed") continue;
      // One that is between two statements is not judged: it comes to its next gate by itself.
      if (moving.every((t) => t.flying > 0)) {
        const names = await blocked(moving.map((t) => t.name));
        if (moving.every((t) => t.flying > 0 && names.has(t.name))) return new Set(moving);
      }
      if (performance.now() > end) throw new Error("a strand of the simulation stands still");
    }
  };

  return {
    strand,
    run: async () => {
      for (const start of starts) start();
      let isDeadlocked = false;
      for (;;) {
        const locked = await settle();
        const ready = threads.filter((t) => !t.isDone && !locked.has(t));
        if (ready.length > 0) random.pick(ready).waiting.shift()?.();
        else if (locked.size === 0) break;
        else {
          // Each waits for another: the server ends one after a second, and the rest goes on.
          isDeadlocked = true;
          await pause(100);
        }
      }
      if (failures.length > 0) throw failures[0];
      return { isDeadlocked };
    },
  };
};
