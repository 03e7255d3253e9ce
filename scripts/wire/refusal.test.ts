// I16: what is revoked does not speak for longer than five seconds, with the real operations on a real database, a real link, the
// default timings and no bell at all. A host that another replica serves is let go here as soon.
import { defaultTimings } from "@renderplane/proto/kernel/limits.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { bindGrpcOperations } from "../../control-plane/src/grpc/bind.ts";
import { inventoryRecord } from "../../control-plane/src/grpc/convert.ts";
import { inventory, serialOf, until } from "../../control-plane/src/grpc/testing.ts";
import { issueJoinToken } from "../../control-plane/src/operations/issue-join-token.ts";
import { openSession } from "../../control-plane/src/operations/open-session.ts";
import { revokeCertificate } from "../../control-plane/src/operations/revoke-certificate.ts";
import { setIntent } from "../../control-plane/src/operations/set-intent.ts";
import { type Engine, openEngine } from "../../control-plane/src/testing/engine.ts";
import { type Stage, setStage } from "./stage.ts";

let stage: Stage;
let engine: Engine;
beforeEach(async () => {
  stage = await setStage();
  engine = await openEngine({ timings: defaultTimings });
});
afterEach(async () => {
  await stage.clear();
  await engine.close();
});

const by = { reason: "a test", by: "test" };
const limitMs = 5000;
const join = async () => {
  const { ctx } = engine;
  const edge = await stage.serve({
    authority: ctx.authority,
    operations: bindGrpcOperations(ctx) as never,
    timings: ctx.timings,
  });
  const { token } = await issueJoinToken(ctx, { ttlMs: 60_000, maxUses: 1 });
  const { link, lines } = stage.linkTo(edge, { joinToken: token });
  await link.start();
  await until("the session opens", () => link.isOpen());
  const identity = await stage.identity();
  return { edge, link, lines, hostId: link.hostId() ?? "", serial: serialOf(identity.certificate) };
};

describe("an open stream ends within five seconds", () => {
  test("when its certificate was revoked", async () => {
    const { link, lines, hostId, serial } = await join();
    await revokeCertificate(engine.ctx, { host: hostId, serial, ...by });
    const began = performance.now();
    await until("the stream ends", () => !link.isOpen(), limitMs);
    expect(performance.now() - began).toBeLessThan(limitMs);
    await until("the agent says why", () => lines.some((line) => line.includes("was revoked; enrol the host again")));
  });

  test("when its host was revoked, and nothing more is taken from it", async () => {
    const { edge, link, hostId } = await join();
    await setIntent(engine.ctx, { host: hostId, act: "revoke", ...by });
    await until("the stream ends", () => !link.isOpen(), limitMs);
    await until("nobody is here", () => edge.edge.levels().sessions === 0);
    await expect(link.placeOutputs({ attemptId: `a_${"0".repeat(26)}`, fence: 1n, outputs: [] })).rejects.toMatchObject(
      { code: "certificate_refused" },
    );
  });

  test("when another replica opened a newer one", async () => {
    const { edge, hostId } = await join();
    const { certificate } = await stage.identity();
    expect(edge.edge.levels().sessions).toBe(1);
    const other = { ...engine.ctx, replica: "other.00000000" };
    await openSession(other, {
      hostId,
      serial: serialOf(certificate),
      instanceId: "i",
      agentVersion: "1",
      protocolMin: 1,
      protocolMax: 2,
      inventory: inventoryRecord(inventory),
      attempts: [],
    });
    const newest = async () => {
      const [row] = await engine.sql<{ epoch: bigint; replica: string }>("select epoch, replica from hosts");
      return row;
    };
    expect((await newest())?.replica).toBe(other.replica);
    // The agent comes back at once, so the proof is its newer session.
    const end = performance.now() + limitMs;
    while (((await newest())?.epoch ?? 0n) < 3n) {
      if (performance.now() > end) throw new Error("the older session was not ended within five seconds");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  });
});
