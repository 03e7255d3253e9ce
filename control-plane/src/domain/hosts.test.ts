// The decisions about hosts, as tables: presence, wishes, copied identities, valves.
import { defaultTimings as t } from "@renderplane/proto/kernel/limits.ts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { copyReturns, isCopied, returnsOf } from "./identity.ts";
import { type IntentAct, intentActs, judgeIntent } from "./intent.ts";
import { type Presence, presenceEvent, presenceOf } from "./presence.ts";
import type { HostIntent } from "./records.ts";
import { judgeValve, type PoolFacts } from "./valve.ts";

describe("presence", () => {
  test.each<[string | null, number | null, Presence]>([
    [null, 10, "offline"],
    ["r", null, "offline"],
    ["r", 0, "online"],
    ["r", t.suspectMs, "online"],
    ["r", t.suspectMs + 1, "suspect"],
    ["r", t.leaseMs + t.graceMs, "suspect"],
    ["r", t.leaseMs + t.graceMs + 1, "offline"],
  ])("stream at %s, silent for %s: %s", (replica, silentMs, expected) => {
    expect(presenceOf({ replica, silentMs }, t)).toBe(expected);
  });

  test("an episode is told once, whatever the order of looks", () => {
    const presence = fc.constantFrom<Presence>("online", "suspect", "offline");
    fc.assert(
      fc.property(fc.array(presence, { maxLength: 30 }), (looks) => {
        let told: Presence = "online";
        const events: string[] = [];
        for (const now of looks) {
          const event = presenceEvent(told, now);
          if (event === undefined) continue;
          events.push(event);
          told = now;
        }
        // Every host.back ends something that was told, and nothing is told twice in a row.
        for (const [i, event] of events.entries()) expect(event).not.toBe(events[i - 1]);
        if (looks.length > 0 && looks.at(-1) === "online" && looks.some((look) => look !== "online"))
          expect(events.at(-1)).toBe("host.back");
      }),
    );
  });
});

describe("intent", () => {
  const intents: readonly HostIntent[] = ["open", "cordoned", "draining", "maintenance", "quarantined", "revoked"];
  const acts = Object.keys(intentActs) as IntentAct[];

  test("nothing leaves revocation, and only release and revoke leave quarantine", () => {
    const leaving = (now: HostIntent) =>
      acts.filter((act) => {
        const verdict = judgeIntent("a", now, act);
        return verdict.ok && verdict.to !== now;
      });
    expect(leaving("revoked")).toEqual([]);
    expect(leaving("quarantined").sort()).toEqual(["release", "revoke"]);
    for (const now of intents.slice(0, 4)) expect(leaving(now)).toContain("revoke");
  });

  test("a refusal names the host and what to do", () => {
    expect(judgeIntent("a", "quarantined", "cordon")).toMatchObject({
      reason: expect.stringMatching(/host a .*release/),
    });
    expect(judgeIntent("a", "revoked", "uncordon")).toMatchObject({
      reason: expect.stringContaining("enrol it again"),
    });
    expect(judgeIntent("a", "open", "release")).toMatchObject({
      reason: expect.stringContaining("nothing to release"),
    });
  });
});

describe("a copied identity", () => {
  test.each<[string, number]>([
    ["", 0],
    ["A", 0],
    ["AAAA", 0],
    ["ABCDEFG", 0],
    ["ABA", 1],
    ["ABAB", 2],
    ["ABABA", 3],
    ["AABBAA", 1],
    ["ABCABC", 3],
  ])("sessions of %s: %i returns", (letters, returns) => {
    expect(returnsOf([...letters])).toBe(returns);
    expect(isCopied([...letters])).toBe(returns >= copyReturns);
  });

  test("an agent that starts anew every time is never a copy, however often it connects with each start", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 5 }), { maxLength: 12 }), (sessions) => {
        expect(
          isCopied(sessions.flatMap((count, start) => Array.from({ length: count }, () => `start ${start}`))),
        ).toBe(false);
      }),
    );
  });
});

describe("the valve of a pool", () => {
  const pool = (hosts: number, silent: number, valve: PoolFacts["valve"] = null): PoolFacts => ({
    pool: "p",
    hosts,
    silent,
    valve,
  });
  const closed = (opensInMs = 1) => ({ isClosed: true, opensInMs, openedAgoMs: null });
  const opened = (openedAgoMs: number) => ({ isClosed: false, opensInMs: 0, openedAgoMs });
  const windowMs = t.suspectMs + 12 * t.heartbeatMs;

  test.each<[string, PoolFacts, string, string]>([
    ["two hosts are no crowd", pool(2, 2), "keep", "calm"],
    ["half is not more than half", pool(6, 3), "keep", "calm"],
    ["three of five", pool(5, 3), "close", "mass_disconnect"],
    ["all of three", pool(3, 3), "close", "mass_disconnect"],
    ["still silent", pool(5, 3, closed()), "keep", "closed"],
    ["half is back", pool(4, 2, closed()), "keep", "closed"],
    ["more than half is back", pool(5, 2, closed()), "open", "recovered"],
    ["its time is up", pool(5, 5, closed(0)), "open", "time"],
    ["nobody is left to count", pool(0, 0, closed(0)), "open", "time"],
    ["the same blow does not close it again", pool(5, 5, opened(windowMs - 1)), "keep", "just_opened"],
    ["another blow does", pool(5, 5, opened(windowMs)), "close", "mass_disconnect"],
  ])("%s", (_, facts, action, rule) => {
    expect(judgeValve(facts, t)).toMatchObject({ action, rule });
  });
});
