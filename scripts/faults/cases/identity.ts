// Faults of who somebody is: tokens that must not work, certificates taken back, an identity on two hosts. F43, F44, F46.
import assert from "node:assert/strict";
import { cp } from "node:fs/promises";
import { statusOf } from "../answers.ts";
import { type FaultCase, slackMs } from "../case.ts";
import { enrolRaw } from "../raw-agent.ts";
import { until } from "../until.ts";

const hostsKnown = `select count(*)::int as count from hosts`;

export const identityCases: readonly FaultCase[] = [
  {
    faults: ["F43"],
    injected: "join tokens: unknown, of another authority, used up, expired, and one secret changed",
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      const issue = async () => (await bed.fleet.api<{ token: string }>("POST", "/api/v1/enrollments", {})).body.token;
      const used = await issue();
      await bed.raw("first", { token: used });
      const expired = await issue();
      const changed = await issue();
      await bed.fleet.sql(`update join_tokens set expires_at = clock_timestamp() - interval '1 second' where id = $1`, [
        expired.split(".")[1],
      ]);
      const [, id = "", secret = "", pin = ""] = changed.split(".");
      const flipped = `${secret.startsWith("A") ? "B" : "A"}${secret.slice(1)}`;
      const bad = {
        "used up": used,
        expired,
        "another secret": `rpj1.${id}.${flipped}.${pin}`,
        unknown: `rpj1.${id.split("").reverse().join("")}.${secret}.${pin}`,
        nonsense: "rpj1",
      };
      const began = performance.now();
      for (const [what, token] of Object.entries(bad))
        assert.notEqual(
          await statusOf(enrolRaw(bed.fleet, `host-${what.replaceAll(" ", "-")}`, { token })),
          "answered",
          what,
        );
      const detectMs = (performance.now() - began) / Object.keys(bad).length;
      const [row] = await bed.fleet.sql<{ count: number }>(hostsKnown);
      assert.equal(row?.count, 1, "a bad token made a host");
      return { detectMs, recoverMs: null, note: "enrolments 0" };
    },
  },
  {
    faults: ["F44"],
    injected: "the certificate of a host with an open stream is revoked; then it tries again",
    within: { detectMs: 5_000 + slackMs },
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      const agent = await bed.raw("raw");
      const session = agent.session();
      await session.ack;
      const began = performance.now();
      const answer = await bed.fleet.api("POST", "/api/v1/hosts/raw/revoke", { reason: "stolen" });
      assert.ok(answer.status < 300, `the revocation was answered with ${answer.status}`);
      await until("the stream is closed", session.isOver, 20_000);
      const detectMs = performance.now() - began;
      const again = agent.session();
      const error = await again.ended;
      assert.ok(error !== undefined && [7, 16].includes(error.code), `a revoked host was answered with ${error?.code}`);
      return { detectMs, recoverMs: null, note: "reconnect refused" };
    },
  },
  {
    faults: ["F46"],
    injected: "the folder of an agent copied: two processes with one identity",
    within: { detectMs: 60_000 },
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      await cp(bed.fleet.agentDir("alpha"), bed.fleet.agentDir("copy"), {
        recursive: true,
        filter: (path) => !/\.(lock|sock|pid)$/.test(path),
      });
      const began = performance.now();
      // It is known as alpha, so the name it is started by is never seen.
      await bed.startCopy("copy", "alpha");
      const detectMs = await until(
        "the identity is quarantined",
        async () =>
          (await bed.fleet.sql(`select id from hosts where name = 'alpha' and intent = 'quarantined'`)).length > 0,
        60_000,
        100,
      );
      const told = await bed.fleet.sql(`select id from events where type = 'host.identity_copied'`);
      assert.equal(told.length, 1, "one event an episode");
      return {
        detectMs: Math.max(detectMs, performance.now() - began),
        recoverMs: null,
        note: "quarantined, one event",
      };
    },
  },
];
