// How hosts leave this replica: asked to go when it stops or has more than its share, ended when they are not accepted any more, and
// never later than the stop allows.
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { codeOf, hello, rawEnrol, rawStream, until } from "./testing.ts";
import { beat, of, startWire, type Wire } from "./testing-wire.ts";

let wire: Wire;
beforeEach(async () => {
  wire = await startWire({ addresses: () => ["127.0.0.1:1", "127.0.0.1:2"] });
});
afterEach(() => wire.stop());

describe("leaving", () => {
  test("a host hears at Hello where else it may go", async () => {
    const { addresses } = await rawStream(wire.client).ack;
    expect(addresses).toEqual(["127.0.0.1:1", "127.0.0.1:2"]);
  });

  test("a stop asks hosts to move, answers their heartbeats meanwhile, takes no new ones, and waits for those that go", async () => {
    const other = await rawEnrol(wire.edge, wire.edge.operations.issueToken(), { name: "beta" });
    const stream = rawStream(wire.client);
    await stream.ack;
    const stopping = wire.edge.stop();
    await until("it is asked to move", () => of(stream, "move").length === 1);
    expect(of(stream, "move")[0]).toEqual({ address: "", withinMs: 200 });
    beat(stream, 1n, []);
    await until("its heartbeat is answered", () => of(stream, "heartbeatAck").length === 1);
    expect(codeOf(await rawStream(wire.connect(other)).ended)).toBe("14 unavailable");
    stream.send({ $case: "goodbye", value: { reason: "moved" } });
    expect(await stream.ended).toBeUndefined();
    const began = performance.now();
    await stopping;
    expect(performance.now() - began).toBeLessThan(1000);
  });

  test("a host that does not go is told to come back when the time is over", async () => {
    const stay = rawStream(wire.client);
    await stay.ack;
    const old = await rawEnrol(wire.edge, wire.edge.operations.issueToken(), { name: "beta" });
    const first = rawStream(wire.connect(old), hello({ protocolMin: 1, protocolMax: 1 }));
    await first.ack;
    await wire.edge.stop();
    expect(codeOf(await stay.ended)).toBe("14 unavailable");
    expect(codeOf(await first.ended)).toBe("14 unavailable");
    expect(wire.edge.operations.callsOf("closeSession")).toHaveLength(2);
  });

  test("a replica that was taken for gone ends the streams of hosts that stay or know no Move, and only those", async () => {
    const stay = rawStream(wire.client);
    await stay.ack;
    const enrol = (name: string) => rawEnrol(wire.edge, wire.edge.operations.issueToken(), { name });
    const old = rawStream(wire.connect(await enrol("beta")), hello({ protocolMin: 1, protocolMax: 1 }));
    await old.ack;
    const late = await enrol("gamma");
    const recalled = wire.edge.edge.recall(50);
    await until("it is asked to move", () => of(stay, "move").length === 1);
    const fresh = rawStream(wire.connect(late));
    await fresh.ack;
    expect(codeOf(await stay.ended)).toBe("14 unavailable");
    expect(codeOf(await old.ended)).toBe("14 unavailable");
    await recalled;
    beat(fresh, 1n, []);
    await until("the new one goes on", () => of(fresh, "heartbeatAck").length === 1);
  });

  test("a part of the hosts is shed, none of them twice, and those get no offers any more", async () => {
    const streams = [rawStream(wire.client)];
    for (const name of ["b", "c", "d"]) {
      const identity = await rawEnrol(wire.edge, wire.edge.operations.issueToken(), { name });
      streams.push(rawStream(wire.connect(identity)));
    }
    await Promise.all(streams.map((stream) => stream.ack));
    expect(wire.edge.edge.shed(0.5)).toBe(2);
    const moves = () => streams.filter((stream) => of(stream, "move").length > 0).length;
    await until("two are asked", () => moves() === 2);
    expect(wire.edge.edge.shed(1)).toBe(2);
    await until("the others are asked", () => moves() === 4);
    expect(streams.every((stream) => of(stream, "move").length === 1)).toBe(true);
    expect(wire.edge.edge.levels().sessions).toBe(4);
    const asked = wire.edge.operations.callsOf("takeOffers").length;
    const looks = () => wire.edge.operations.callsOf("takeStops").length;
    const before = looks();
    wire.edge.ring(wire.identity.hostId);
    await until("the bell is heard", () => looks() > before);
    expect(wire.edge.operations.callsOf("takeOffers")).toHaveLength(asked);
  });
});

describe("hosts that are not accepted any more", () => {
  test("a revoked certificate ends the open stream with that status, and only that one", async () => {
    const other = await rawEnrol(wire.edge, wire.edge.operations.issueToken(), { name: "beta" });
    const [one, two] = [rawStream(wire.client), rawStream(wire.connect(other))];
    await Promise.all([one.ack, two.ack]);
    for (const serial of wire.host().serials.keys()) wire.host().serials.set(serial, "revoked");
    const ended = await one.ended;
    expect(codeOf(ended)).toBe("16 certificate_refused");
    expect(ended?.details).toContain("enrol the host again");
    beat(two, 1n, []);
    await until("the other goes on", () => of(two, "heartbeatAck").length === 1);
  });

  test("a session that was opened at another replica ends here without a heartbeat", async () => {
    const stream = rawStream(wire.client);
    await stream.ack;
    wire.host().epoch = 40n;
    expect(codeOf(await stream.ended)).toBe("10 superseded");
  });

  test("looks cost two statements a turn, whatever the number of hosts", async () => {
    const hosts = [wire.identity];
    for (const name of ["b", "c", "d"])
      hosts.push(await rawEnrol(wire.edge, wire.edge.operations.issueToken(), { name }));
    const streams = hosts.map((identity) => rawStream(wire.connect(identity)));
    await Promise.all(streams.map((stream) => stream.ack));
    const turns = () => wire.edge.operations.callsOf("waitingHosts").length;
    const from = turns();
    await until("ten turns pass", () => turns() >= from + 10);
    const { operations } = wire.edge;
    expect(Math.abs(operations.callsOf("refusedSessions").length - turns())).toBeLessThanOrEqual(1);
    // One look when the session opened, none after it.
    expect(operations.callsOf("takeOffers")).toHaveLength(4);
  });
});
