// Renews the certificate at two thirds of its lifetime, always with a new key. The new identity is on disk before it is used, so a
// crash at any point leaves one that works: the old certificate stays valid for a while after a renewal.
import { X509Certificate } from "node:crypto";
import type { AgentServiceClient } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import { renewCertificate } from "./complete.ts";
import { type Identity, newKey, pemOf, saveIdentity } from "./identity.ts";
import { makeRequest } from "./signing-request.ts";

const share = 2 / 3;
/** Of the lifetime, both ways: a fleet that enrolled together does not renew together. */
const spread = 0.1;
/** Timers are set no further than this; the clock of the host may be corrected meanwhile. */
const longestWaitMs = 3_600_000;

export const createRenewalOfIdentity = (parts: {
  readonly dir: string;
  readonly identity: () => Identity;
  /** undefined while no session is open: renewal waits for the way to be there. */
  readonly client: () => AgentServiceClient | undefined;
  readonly pauseMs: number;
  readonly log: Logger;
  readonly onRenewed: (identity: Identity) => void;
}): Rhythm => {
  const offset = share + (Math.random() * 2 - 1) * spread * share;
  return rhythm({
    name: "certificate-renewal",
    periodMs: longestWaitMs,
    turn: async () => {
      const old = parts.identity();
      const waitMs = renewAtMs(old.certificate, offset) - Date.now();
      if (waitMs > 0) return Math.max(parts.pauseMs, Math.min(waitMs, longestWaitMs));
      const client = parts.client();
      if (!client) return parts.pauseMs;
      const key = newKey();
      const { certificate, authorities } = await renewCertificate(client, { csr: await makeRequest(key) });
      const identity: Identity = { ...old, key: pemOf(key), certificate, authorities };
      await saveIdentity(parts.dir, identity);
      parts.log.info({ validTo: new X509Certificate(certificate).validTo }, "certificate renewed");
      parts.onRenewed(identity);
      return parts.pauseMs;
    },
    errorPauseMs: parts.pauseMs,
    onError: (error) =>
      parts.log.warn({ err: error }, "the certificate could not be renewed; the old one is still used"),
  });
};

export const renewAtMs = (certificate: string, offset: number): number => {
  const { validFrom, validTo } = new X509Certificate(certificate);
  const from = Date.parse(validFrom);
  return from + (Date.parse(validTo) - from) * offset;
};
