// How an agent joins: what a token becomes, what is refused with which words, and what a lost answer or an impostor costs.
import { createPublicKey } from "node:crypto";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { identityPath, newKey, pemOf } from "../../agent/src/link/identity.ts";
import { until } from "../../control-plane/src/grpc/testing.ts";
import { createFakeOperations } from "../../control-plane/src/grpc/testing-operations.ts";
import { openAuthority } from "../../control-plane/src/identity/authority.ts";
import { signCertificate } from "../../control-plane/src/identity/x509.ts";
import { failure, type Stage, setStage } from "./stage.ts";

let stage: Stage;
beforeEach(async () => {
  stage = await setStage();
});
afterEach(() => stage.clear());

describe("enrolment", () => {
  test("a token becomes an identity on disk that needs no token again", async () => {
    const { edge, link, supervisor } = await stage.enrolled();
    const mode = (await stat(identityPath(stage.dir))).mode & 0o777;
    expect(mode).toBe(0o600);
    await link.stop();
    expect(supervisor.of("disconnect")).toHaveLength(1);
    const again = stage.linkTo(undefined);
    await again.link.start();
    await until("the session opens", () => again.link.isOpen());
    expect(again.link.hostId()).toBe(link.hostId());
    expect(edge.operations.callsOf("enrolHost")).toHaveLength(1);
  });

  test("without identity and token the start says which setting is missing", async () => {
    const edge = await stage.serve();
    const { link } = stage.linkTo(undefined, { enrolAddress: edge.edge.enrolAddress() });
    const error = await failure(link.start());
    expect(error.name).toBe("ConfigError");
    expect(error.message).toContain("RENDERPLANE_JOIN_TOKEN is not set");
  });

  test("a server whose authority is not the token's is refused before the token is sent", async () => {
    const [edge, impostor] = [await stage.serve(), await stage.serve()];
    const { link } = stage.linkTo(edge, { enrolAddress: impostor.edge.enrolAddress() });
    const error = await failure(link.start());
    expect(error).toMatchObject({ code: "certificate_refused" });
    expect(error.message).toContain("is not the control plane that issued this join token");
    expect(impostor.operations.calls).toEqual([]);
  });

  test("a server that shows the right authority, but has no certificate of it, is not told the token", async () => {
    const edge = await stage.serve();
    // Everything in it is right but the signature: the pin is found in the chain, so only verification can tell.
    const own = newKey();
    const { pem } = await signCertificate({
      subject: "control plane",
      publicKey: createPublicKey(own),
      issuer: { certificate: edge.authority.authorities, key: own },
      use: "server",
      names: [{ dns: "localhost" }, { ip: "127.0.0.1" }],
      notBefore: new Date(Date.now() - 60_000),
      notAfter: new Date(Date.now() + 60_000),
    });
    const forged = {
      ...edge.authority,
      serverCredentials: async () => ({ key: pemOf(own), certificate: pem + edge.authority.authorities }),
    };
    const impostor = await stage.serve({ authority: forged });
    const { link, lines } = stage.linkTo(edge, { enrolAddress: impostor.edge.enrolAddress() });
    const starting = link.start();
    await until("the call was tried and failed", () => lines.length > 0);
    expect(lines[0]).toMatch(/^warn: .*(certificate|signature)/);
    await link.stop();
    await starting;
    expect(impostor.operations.calls).toEqual([]);
  });

  test.each([
    ["token_expired", { ttlMs: -1 }, "the join token has expired"],
    ["token_used", { maxUses: 0 }, "the join token has been used"],
  ])("%s ends the start with the control plane's sentence", async (code, token, text) => {
    const edge = await stage.serve();
    const { link } = stage.linkTo(edge, { joinToken: edge.operations.issueToken(token) });
    const error = await failure(link.start());
    expect(error).toBeInstanceOf(RenderplaneError);
    expect(error).toMatchObject({ code, message: text });
  });

  test("a second agent with the same name is refused", async () => {
    const { edge } = await stage.enrolled();
    const second = stage.linkTo(edge, { dir: join(stage.dir, "second") });
    expect(await failure(second.link.start())).toMatchObject({
      code: "host_name_taken",
      message: "another host is named alpha",
    });
  });

  test("an answer that was lost is asked for again with the same key and wastes no token", async () => {
    const { authority } = await openAuthority(undefined);
    const operations = createFakeOperations(authority);
    let isLost = true;
    const edge = await stage.serve({
      authority,
      operations: {
        ...operations,
        enrolHost: async (r) => {
          const answer = await operations.enrolHost(r);
          if (isLost) throw new RenderplaneError("unavailable", "the answer is lost", { retryAfterMs: 10_000 });
          return answer;
        },
      },
    });
    const joinToken = operations.issueToken();
    const first = stage.linkTo(edge, { joinToken });
    const starting = first.link.start();
    await until("the token is used", () => operations.hosts.size === 1);
    await first.link.stop();
    await starting;
    isLost = false;
    const second = stage.linkTo(edge, { joinToken });
    await second.link.start();
    expect(operations.hosts.size).toBe(1);
    expect(second.link.hostId()).toBe([...operations.hosts.keys()][0]);
  });

  test("a control plane that is not up yet is waited for", async () => {
    const edge = await stage.serve();
    await edge.stop();
    const { link, lines } = stage.linkTo(edge);
    const starting = link.start();
    await until("the first try failed", () => lines.length > 0);
    expect(lines[0]).toContain(`warn: the control plane cannot be reached at ${edge.edge.enrolAddress()}`);
    await stage.serve({}, edge);
    await starting;
    await until("the session opens", () => link.isOpen());
  });
});
