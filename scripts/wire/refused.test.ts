// Who may not come in, and how the agent tells a closed port, a foreign server, a silent one and a refused certificate apart. Work
// goes on in every case; only how soon it asks again differs.
import { writeFile } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { identityPath } from "../../agent/src/link/identity.ts";
import { serialOf, until } from "../../control-plane/src/grpc/testing.ts";
import { createFakeOperations } from "../../control-plane/src/grpc/testing-operations.ts";
import { openAuthority } from "../../control-plane/src/identity/authority.ts";
import { type Stage, setStage } from "./stage.ts";

let stage: Stage;
beforeEach(async () => {
  stage = await setStage();
});
afterEach(() => stage.clear());

describe("who may not come in", () => {
  test("a revoked host keeps its work, asks slowly, and says what to do", async () => {
    const { edge, link, supervisor, lines } = await stage.enrolled();
    const identity = await stage.identity();
    edge.operations.hosts.get(link.hostId() ?? "")?.serials.set(serialOf(identity.certificate), "revoked");
    await edge.stop();
    await stage.serve({}, edge);
    await until("it is refused", () => lines.some((line) => line.startsWith("error")));
    expect(lines.find((line) => line.startsWith("error"))).toBe(
      "error: this certificate has been revoked; enrol the host again",
    );
    const tries = () => edge.operations.callsOf("openSession").length;
    const before = tries();
    await until("it asks again", () => tries() > before);
    expect(supervisor.of("disconnect")).toHaveLength(1);
  });

  test("a control plane with another authority is told apart from one that is away", async () => {
    const { edge, link, lines } = await stage.enrolled();
    await edge.stop();
    await until("the closed port is told", () => lines.some((line) => line.includes("cannot be reached")));
    await stage.serve({ agentListen: edge.edge.agentAddress() });
    await until("the foreign server is told", () => lines.some((line) => line.startsWith("error")));
    expect(lines.find((line) => line.startsWith("error"))).toContain(
      "is not the control plane that this host enrolled at",
    );
    expect(link.isOpen()).toBe(false);
  });

  test("a certificate of another authority is refused by the server and named in the agent's log", async () => {
    const { edge, link } = await stage.enrolled();
    await link.stop();
    const identity = await stage.identity();
    const elsewhere = await stage.serve();
    // The host trusts the new server, but its own certificate is still the other authority's.
    const moved = {
      ...identity,
      authorities: elsewhere.authority.authorities,
      sessionAddress: elsewhere.edge.agentAddress(),
    };
    await writeFile(identityPath(stage.dir), JSON.stringify(moved));
    const again = stage.linkTo(edge);
    await again.link.start();
    await until("the refusal is told", () => again.lines.some((line) => line.startsWith("error")));
    expect(again.lines.find((line) => line.startsWith("error"))).toContain(
      "does not accept this host's certificate (it was issued by another authority)",
    );
    expect(elsewhere.operations.calls).toEqual([]);
  });

  test("an expired certificate is named with its date", async () => {
    const { authority } = await openAuthority(undefined, () => Date.now() - 80 * 3_600_000);
    const edge = await stage.serve({ authority, operations: createFakeOperations(authority) }, undefined);
    const operations = createFakeOperations(authority);
    const real = await stage.serve({ authority, operations });
    const { link, lines } = stage.linkTo(edge, {
      enrolAddress: real.edge.enrolAddress(),
      joinToken: operations.issueToken(),
    });
    await link.start();
    await until("it is told", () => lines.some((line) => line.startsWith("error")));
    expect(lines.find((line) => line.startsWith("error"))).toMatch(/this host's certificate expired at .* GMT; move /);
  });

  test("a silent server (a dead network behind an open port) is given up on and tried again", async () => {
    const { edge, link, lines } = await stage.enrolled();
    const address = edge.edge.agentAddress();
    await edge.stop();
    const sockets: Socket[] = [];
    const silent = createServer((socket) => sockets.push(socket));
    await new Promise<void>((resolve) => silent.listen(Number(address.split(":")[1]), "127.0.0.1", resolve));
    try {
      await until("it is told", () => lines.some((line) => line.includes("no answer in 3 s")));
    } finally {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => silent.close(resolve));
    }
    await stage.serve({}, edge);
    await until("the session is open again", () => link.isOpen());
  });
});
