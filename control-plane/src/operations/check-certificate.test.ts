// A revoked certificate ends the unary calls of its host too, on a real database.
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Engine, openEngine } from "../testing/engine.ts";
import { checkCertificate } from "./check-certificate.ts";

let engine: Engine;
beforeAll(async () => {
  engine = await openEngine();
});
afterAll(() => engine.close());

test("a certificate counts until it or its host is revoked, and only for its host", async () => {
  const [a, b] = [await engine.host("a"), await engine.host("b")];
  const check = (hostId: string, serial = `serial-${hostId}`) => checkCertificate(engine.ctx, { hostId, serial });
  const refused = (reason: string) => ({ code: "certificate_refused", message: expect.stringContaining(reason) });
  await check(a.hostId);
  // Expiry is the handshake's to judge: a connection outlives it, and the host renews meanwhile.
  await engine.sql(`update certificates set expires_at = clock_timestamp() - interval '1 hour'`);
  await check(a.hostId);
  await expect(check(a.hostId, `serial-${b.hostId}`)).rejects.toMatchObject(refused("did not issue it"));
  await engine.sql(`update certificates set revoked_at = clock_timestamp() where host_id = $1`, [a.hostId]);
  await expect(check(a.hostId)).rejects.toMatchObject(refused("revoked"));
  await check(b.hostId);
  await engine.sql(`update hosts set intent = 'revoked' where id = $1`, [b.hostId]);
  await expect(check(b.hostId)).rejects.toMatchObject(refused("revoked"));
});
