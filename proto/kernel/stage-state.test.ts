// Properties of the stage table: what customers and money rely on must hold for every path through it.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  follow,
  isFinal,
  isLeased,
  jobStates,
  next,
  type StageState,
  sourcesOf,
  stageEvents,
  stageStates,
} from "./stage-state.ts";

describe("the stage table", () => {
  test("a final state never changes, whatever happens", () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...stageEvents), { maxLength: 60 }), (events) => {
        let state: StageState = "pending";
        for (const event of events) {
          const after = follow(state, event);
          if (isFinal(state)) expect(after).toBeUndefined();
          if (after) state = after;
        }
      }),
    );
  });

  test("every state can be reached, and every state that is not final can reach a final one", () => {
    const reachable = (from: StageState): Set<StageState> => {
      const seen = new Set<StageState>([from]);
      const open = [from];
      for (let state = open.pop(); state; state = open.pop())
        for (const after of Object.values(next[state]))
          if (!seen.has(after)) {
            seen.add(after);
            open.push(after);
          }
      return seen;
    };
    expect([...reachable("pending")].sort()).toEqual([...stageStates].sort());
    for (const state of stageStates) expect([...reachable(state)].some(isFinal), state).toBe(true);
  });

  test("a stage succeeds only from a state in which exactly one host holds it, and a cancelled one cannot succeed", () => {
    for (const from of sourcesOf("succeed")) expect(isLeased(from)).toBe(true);
    expect(sourcesOf("succeed")).not.toContain("cancelling");
    expect(Object.values(next.cancelling)).toEqual(["cancelled"]);
  });

  test("only an offer gives a stage to a host, and only from ready", () => {
    for (const state of stageStates)
      for (const [event, after] of Object.entries(next[state]))
        if (!isLeased(state) && isLeased(after)) expect([state, event]).toEqual(["ready", "offer"]);
  });

  test("customers see the five words of the requirements", () => {
    expect(jobStates).toEqual(["queued", "processing", "completed", "failed", "cancelled"]);
  });
});
