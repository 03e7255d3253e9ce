// Enrolment over real TLS: who gets a certificate, who is refused with which code, and what a lost answer costs.
import { createPrivateKey, generateKeyPairSync } from "node:crypto";
import { credentials } from "@grpc/grpc-js";
import { AgentServiceClient, CompleteRequest } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openAuthority } from "../identity/authority.ts";
import { makeJoinToken } from "../identity/join-token.ts";
import { makeRequest } from "../identity/testing.ts";
import { codeOf, rawClient, rawEnrol, rawOptions, rawStream, serialOf, startEdge, type TestEdge } from "./testing.ts";
import { makeId } from "./testing-operations.ts";

let edge: TestEdge;
beforeEach(async () => {
  edge = await startEdge();
});
afterEach(() => edge.stop());

const refusal = async (act: Promise<unknown>): Promise<{ code: string; text: string }> => {
  const error = await act.then(
    () => undefined,
    (failed: unknown) => failed,
  );
  return { code: codeOf(error), text: (error as Error | undefined)?.message ?? "no error" };
};

test("a token buys one certificate that opens a session", async () => {
  const identity = await rawEnrol(edge, edge.operations.issueToken());
  expect(identity.response.authorities).toBe(edge.authority.authorities);
  expect(identity.response.sessionAddress).toBe(edge.edge.agentAddress());
  const client = rawClient(edge, identity);
  const stream = rawStream(client);
  expect((await stream.ack).hostId).toBe(identity.hostId);
  client.close();
});

test("an unknown, an expired and a used token are refused, each by its code", async () => {
  const unknown = makeJoinToken(edge.authority.pin).token;
  expect(await refusal(rawEnrol(edge, unknown))).toMatchObject({ code: "16 token_unknown" });
  expect(await refusal(rawEnrol(edge, "rpj1.x"))).toMatchObject({ code: "16 token_unknown" });
  expect(await refusal(rawEnrol(edge, edge.operations.issueToken({ ttlMs: -1 })))).toMatchObject({
    code: "16 token_expired",
    text: "16 UNAUTHENTICATED: the join token has expired",
  });
  const token = edge.operations.issueToken();
  await rawEnrol(edge, token);
  expect(await refusal(rawEnrol(edge, token, { name: "beta" }))).toMatchObject({
    code: "16 token_used",
    text: "16 UNAUTHENTICATED: the join token has been used",
  });
});

test("a lost answer costs nothing: the same token and key get the same certificate again", async () => {
  const token = edge.operations.issueToken();
  const { privateKey: key } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const first = await rawEnrol(edge, token, { key });
  const second = await rawEnrol(edge, token, { key });
  expect(second.certificate).toBe(first.certificate);
  expect(edge.operations.hosts.size).toBe(1);
});

test("a second agent with the name of another is refused", async () => {
  const token = edge.operations.issueToken({ maxUses: 2 });
  await rawEnrol(edge, token, { name: "alpha" });
  expect(await refusal(rawEnrol(edge, token, { name: "alpha" }))).toMatchObject({
    code: "6 host_name_taken",
    text: "6 ALREADY_EXISTS: another host is named alpha",
  });
});

test("a certificate of another authority, or none, reaches no operation", async () => {
  const { privateKey: key } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const other = (await openAuthority(undefined)).authority;
  const foreign = await other.signHost(await makeRequest(key), makeId("h"));
  const client = rawClient(edge, { key, certificate: foreign.certificate });
  const failed = await rawStream(client).ended;
  expect(codeOf(failed)).toBe("14");
  client.close();
  const bare = new AgentServiceClient(
    edge.edge.agentAddress(),
    credentials.createSsl(Buffer.from(edge.authority.authorities)),
    rawOptions,
  );
  expect(codeOf(await rawStream(bare).ended)).toBe("14");
  bare.close();
  expect(edge.operations.calls).toEqual([]);
});

test("a server certificate of our authority is no client certificate", async () => {
  const { key, certificate } = await edge.authority.serverCredentials([]);
  const client = rawClient(edge, { key: createPrivateKey(key), certificate });
  expect(codeOf(await rawStream(client).ended)).toMatch(/^14|^16 certificate_refused/);
  client.close();
  expect(edge.operations.callsOf("openSession")).toEqual([]);
});

test("a revoked certificate is refused at the session with what to do", async () => {
  const identity = await rawEnrol(edge, edge.operations.issueToken());
  edge.operations.hosts.get(identity.hostId)?.serials.set(serialOf(identity.certificate), "revoked");
  const client = rawClient(edge, identity);
  const failed = await rawStream(client).ended;
  expect(codeOf(failed)).toBe("16 certificate_refused");
  expect(failed?.details).toBe("this certificate has been revoked; enrol the host again");
  client.close();
});

test("a certificate that is revoked while its connection is open ends no attempt and gets no address for outputs", async () => {
  const identity = await rawEnrol(edge, edge.operations.issueToken());
  const client = rawClient(edge, identity);
  const stream = rawStream(client);
  await stream.ack;
  edge.operations.hosts.get(identity.hostId)?.serials.set(serialOf(identity.certificate), "revoked");
  // Its stream ends within a turn of the watch; the connection below it stays open.
  expect(codeOf(await stream.ended)).toBe("16 certificate_refused");
  const attempt = { attemptId: makeId("a"), fence: 1n };
  const complete = { ...CompleteRequest.decode(new Uint8Array()), ...attempt };
  const calls = [
    new Promise((resolve) => client.complete(complete, resolve)),
    new Promise((resolve) => client.placeOutputs({ ...attempt, outputs: [] }, resolve)),
  ];
  for (const error of await Promise.all(calls)) expect(codeOf(error)).toBe("16 certificate_refused");
  expect(edge.operations.ends).toEqual([]);
  expect(edge.operations.callsOf("placeOutputs")).toEqual([]);
  client.close();
});

test("a port in use is refused at start with the setting to change", async () => {
  const address = edge.edge.agentAddress();
  await expect(startEdge({ agentListen: address })).rejects.toThrow(
    `RENDERPLANE_GRPC_LISTEN: cannot listen on ${address}: the port is in use by another process.`,
  );
});
