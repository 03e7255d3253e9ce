// Join tokens and certificates. Only the hash of a token's secret is kept; using one is a guarded update.
import type { Tx } from "./database.ts";

export const insertJoinToken = async (
  tx: Tx,
  r: { readonly id: string; readonly secretSha256: string; readonly maxUses: number; readonly ttlMs: number },
): Promise<Date> => {
  const { rows } = await tx.query<{ expiresAt: Date }>(
    `insert into join_tokens (id, secret_sha256, max_uses, expires_at)
     values ($1, $2, $3, clock_timestamp() + make_interval(secs => $4::float8 / 1000)) returning expires_at as "expiresAt"`,
    [r.id, r.secretSha256, r.maxUses, r.ttlMs],
  );
  return (rows[0] as { expiresAt: Date }).expiresAt;
};

export type TokenFacts = {
  readonly secretSha256: string;
  readonly isExpired: boolean;
  readonly isUsedUp: boolean;
  readonly isRevoked: boolean;
};
export const lockJoinToken = async (tx: Tx, id: string): Promise<TokenFacts | undefined> =>
  (
    await tx.query<TokenFacts>(
      `select secret_sha256 as "secretSha256", expires_at <= clock_timestamp() as "isExpired", uses >= max_uses as "isUsedUp",
              revoked_at is not null as "isRevoked"
       from join_tokens where id = $1 for update`,
      [id],
    )
  ).rows[0];

export const useJoinToken = async (tx: Tx, id: string): Promise<void> => {
  await tx.query(`update join_tokens set uses = uses + 1 where id = $1`, [id]);
};

export const insertCertificate = async (
  tx: Tx,
  c: {
    readonly serial: string;
    readonly hostId: string;
    readonly publicKeySha256: string;
    readonly pem: string;
    readonly expiresAt: Date;
  },
): Promise<void> => {
  await tx.query(
    `insert into certificates (serial, host_id, public_key_sha256, pem, expires_at) values ($1, $2, $3, $4, $5)`,
    [c.serial, c.hostId, c.publicKeySha256, c.pem, c.expiresAt],
  );
};

/** The certificate of a host of this name for this very key, issued a moment ago: the answer to a repeated enrolment. */
export const recentCertificate = async (
  tx: Tx,
  r: { readonly name: string; readonly publicKeySha256: string; readonly withinMs: number },
): Promise<{ hostId: string; pem: string } | undefined> =>
  (
    await tx.query<{ hostId: string; pem: string }>(
      `select c.host_id as "hostId", c.pem from certificates c join hosts h on h.id = c.host_id
       where h.name = $1 and c.public_key_sha256 = $2 and c.revoked_at is null
         and c.issued_at > clock_timestamp() - make_interval(secs => $3::float8 / 1000)
       order by c.issued_at desc limit 1`,
      [r.name, r.publicKeySha256, r.withinMs],
    )
  ).rows[0];

/**
 * False: it was revoked, alone or with its host, or is none of this host's. Its expiry is not looked at: the handshake judged
 * it, and an open connection may outlive it.
 */
export const isCertificateGood = async (tx: Tx, serial: string, hostId: string): Promise<boolean> =>
  (
    await tx.query(
      `select 1 from certificates c join hosts h on h.id = c.host_id
       where c.serial = $1 and c.host_id = $2 and c.revoked_at is null and h.intent <> 'revoked'`,
      [serial, hostId],
    )
  ).rowCount > 0;

/** Why a certificate may not open a session; undefined when it may. */
export const certificateRefusal = async (tx: Tx, serial: string, hostId: string): Promise<string | undefined> => {
  const { rows } = await tx.query<{ isRevoked: boolean; isExpired: boolean; intent: string }>(
    `select c.revoked_at is not null as "isRevoked", c.expires_at <= clock_timestamp() as "isExpired", h.intent
     from certificates c join hosts h on h.id = c.host_id where c.serial = $1 and c.host_id = $2`,
    [serial, hostId],
  );
  const found = rows[0];
  if (!found) return "this control plane did not issue it";
  if (found.isRevoked || found.intent === "revoked") return "it was revoked";
  if (found.isExpired) return "it has expired";
  return undefined;
};
