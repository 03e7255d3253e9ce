// Stories of the engine in which something goes wrong or comes back: retries, refusals, lost leases, cancels, limits, reconnects.
// On a real database; the test plays the hosts. Every story ends with the invariants.
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { cancelJob } from "../operations/cancel-job.ts";
import { explainJob } from "../operations/explain-job.ts";
import { placeStages } from "../operations/place-stages.ts";
import { reapLeases } from "../operations/reap-leases.ts";
import { takeOffers, takeStops } from "../operations/take-offers.ts";
import { wakeStages } from "../operations/wake-stages.ts";
import { type Engine, openEngine } from "./engine.ts";
import { brokenInvariants } from "./invariants.ts";

let engine: Engine;
beforeEach(async () => {
  engine = await openEngine({ timings: { leaseMs: 1000, graceMs: 0, offerMs: 1000 } });
});
afterEach(async () => {
  expect(await brokenInvariants((text) => engine.sql(text))).toEqual([]);
  await engine.close();
});

const failing = (failureClass: string) => ({
  outcome: "failed" as const,
  failure: { failureClass, severity: "", message: `it was ${failureClass}` },
});
const pastLease = (attemptId: string) =>
  engine.sql(`update attempts set lease_until = clock_timestamp() - interval '1 minute' where id = $1`, [attemptId]);

describe("what goes wrong", () => {
  test("a stage is tried again after its pause, then the job fails with the stage's own words, and nothing after it begins", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    for (const state of ["waiting", "failed"]) {
      const [offer] = await engine.offers(h);
      if (!offer) throw new Error("no offer");
      await engine.accept(h, offer);
      await engine.finish(h.hostId, offer, failing("timeout"));
      expect((await engine.detail(id)).stages[0]?.state).toBe(state);
      await new Promise((r) => setTimeout(r, 25));
      await wakeStages(engine.ctx);
    }
    const { job, stages, attempts } = await engine.detail(id);
    expect(job).toMatchObject({
      state: "failed",
      failure: { failureClass: "timeout", severity: "high", stage: "first", message: "it was timeout" },
    });
    expect(stages.map((s) => s.state)).toEqual(["failed", "skipped"]);
    expect(attempts.map((a) => a.verdict?.rule)).toEqual(["retry", "tries-used-up"]);
    expect((await explainJob(engine.ctx, id)).summary).toBe("failed at first: it was timeout");
  });

  test("a refused offer costs nothing, is not counted, and waits a moment before it is offered again", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("no offer");
    await engine.finish(h.hostId, offer, {
      outcome: "refused",
      failure: { failureClass: "host_memory", severity: "", message: "memory: needs 1, has 0" },
    });
    const { stages, job } = await engine.detail(id);
    expect(stages[0]).toMatchObject({
      state: "ready",
      tries: 0,
      avoid: [{ hostId: h.hostId, reason: "memory: needs 1, has 0" }],
    });
    expect(job).toMatchObject({ heldMicros: 0n, spentMicros: 0n });
    expect(await engine.offers(h)).toEqual([]);
  });

  test("an offer that nobody answers returns to the queue", async () => {
    const h = await engine.host("a");
    await engine.submit();
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("no offer");
    await pastLease(offer.attemptId);
    expect(await reapLeases(engine.ctx)).toBe(1);
    expect(await engine.sql(`select outcome from attempts`)).toEqual([{ outcome: "expired" }]);
    expect(await engine.accept(h, offer)).toBe(false);
  });

  test("an output that is not stored whole does not count", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("no offer");
    await engine.accept(h, offer);
    await engine.finish(h.hostId, offer, {
      outputs: [{ name: "video.mp4", sha256: "a".repeat(64), sizeBytes: 3, mediaType: "video/mp4" }],
    });
    expect((await engine.detail(id)).stages[0]).toMatchObject({
      state: "waiting",
      failure: { failureClass: "transfer_failed" },
    });
  });

  test("a cancel stops what runs, keeps the job open until it has stopped, and a late success does not count", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("no offer");
    await engine.accept(h, offer);
    await cancelJob(engine.ctx, id, "not needed");
    await cancelJob(engine.ctx, id, "again");
    expect((await engine.detail(id)).job.state).toBe("processing");
    expect(await takeStops(engine.ctx, h)).toEqual([
      { attemptId: offer.attemptId, fence: offer.fence, reason: "cancelled" },
    ]);
    await engine.finish(h.hostId, offer);
    const { job, stages } = await engine.detail(id);
    expect(job.state).toBe("cancelled");
    expect(stages.map((s) => s.state)).toEqual(["cancelled", "cancelled"]);
    await expect(cancelJob(engine.ctx, id, "")).rejects.toMatchObject({ code: "job_is_final" });
    await expect(cancelJob(engine.ctx, "v_NONE", "")).rejects.toMatchObject({ code: "job_not_found" });
  });

  test("a cancelled job whose host never answers ends when the lease runs out", async () => {
    const h = await engine.host("a");
    const id = await engine.submit();
    const [offer] = await engine.offers(h);
    if (!offer) throw new Error("no offer");
    await engine.accept(h, offer);
    await cancelJob(engine.ctx, id, "");
    await pastLease(offer.attemptId);
    await reapLeases(engine.ctx);
    expect((await engine.detail(id)).job.state).toBe("cancelled");
  });

  test("a stage whose estimate would pass the job's limit is not begun: the job fails before it costs more", async () => {
    await engine.host("a");
    const id = await engine.submit({ cost_limit: 0.4 });
    await placeStages(engine.ctx);
    const { job, attempts } = await engine.detail(id);
    expect(job).toMatchObject({
      state: "failed",
      heldMicros: 0n,
      failure: { failureClass: "cost_limit", severity: "critical" },
    });
    expect(job.failure?.message).toContain("Cost limit exceeded at first");
    expect(attempts).toEqual([]);
  });

  test("a full queue refuses with its depth and asks to come back", async () => {
    const small = await openEngine({ settings: { queueDepth: 1 } });
    await small.submit();
    await expect(small.submit()).rejects.toMatchObject({
      code: "queue_full",
      retryAfterMs: 30_000,
      message: expect.stringContaining("limit is 1"),
    });
    await small.close();
  });

  test("a prompt that no host can serve is refused with the setting to add", async () => {
    const prompt = { pipeline: "narrated-video", request: { prompt: "Foxes" } };
    await engine.host("a");
    await expect(engine.submit(prompt)).rejects.toMatchObject({
      code: "provider_not_configured",
      message: expect.stringContaining("set OPENAI_API_KEY for an agent"),
    });
    await engine.host("b", { providers: ["openai.chat"] });
    const id = await engine.submit(prompt);
    await placeStages(engine.ctx);
    expect((await engine.detail(id)).attempts[0]?.hostId).toContain("h_B");
  });
});

describe("a host that comes back", () => {
  test("keeps what it holds, is told to abandon what it lost, and what it does not hold is lost at once", async () => {
    const h = await engine.host("a");
    const ids = [await engine.submit(), await engine.submit(), await engine.submit()];
    const [kept, dropped, journaled] = await engine.offers(h);
    if (!kept || !dropped || !journaled) throw new Error("no offers");
    await engine.accept(h, kept);
    await engine.accept(h, dropped);
    const { epoch, verdicts } = await engine.reopen(h.hostId, [
      { attemptId: kept.attemptId, fence: kept.fence, state: "running" },
      // Its accept was lost with the stream: the session accepts it now.
      { attemptId: journaled.attemptId, fence: journaled.fence, state: "accepted" },
      { attemptId: "a_00000000000000000000000000", fence: 1n, state: "running" },
    ]);
    expect(verdicts.map((v) => v.action)).toEqual(["continue", "continue", "abandon"]);
    expect(epoch).toBe(h.epoch + 1n);
    const states = await Promise.all(ids.map(async (id) => (await engine.detail(id)).stages[0]?.state));
    expect(states).toEqual(["running", "waiting", "running"]);
    await expect(takeOffers(engine.ctx, h)).rejects.toMatchObject({ code: "superseded" });
    expect(await engine.accept(h, kept)).toBe(false);
  });

  test("an offer that was sent to a stream that died is sent again", async () => {
    const h = await engine.host("a");
    await engine.submit();
    expect((await engine.offers(h)).length).toBe(1);
    const { epoch } = await engine.reopen(h.hostId);
    expect((await takeOffers(engine.ctx, { hostId: h.hostId, epoch })).length).toBe(1);
  });

  test("explain gives a reason for every host", async () => {
    await engine.host("a", { stageKinds: [] });
    await engine.host("b", { memoryBytes: 1 });
    const id = await engine.submit();
    await placeStages(engine.ctx);
    const explained = await explainJob(engine.ctx, id);
    expect(explained.stages[0]?.hosts.map((v) => [v.host, v.rule])).toEqual([
      ["a", "kind"],
      ["b", "memory"],
    ]);
    expect(explained.summary).toBe("first no host can take it now");
  });
});
