// Join tokens and certificates. Only the hash of a token's secret is kept; using one is a guarded update. Whether a certificate
// counts is one query (certificateStanding), used by sessions, unary calls and renewals alike.
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

/** How long a certificate that was replaced is still good: the answer with the new one may need a few tries. */
export const supersedeMs = 10 * 60_000;

/**
 * Why a certificate counts, or not. `superseded`: it was replaced, its successor has been used, and somebody still shows the old
 * one, so it was copied. A successor that was never used may be an answer that got lost: then the old one stays good.
 */
export type Standing = "good" | "unknown" | "revoked" | "copied" | "superseded" | "expired";

/** The one judgement of a certificate, as a query; the parameters are names of its statement's parameters. No row: unknown. */
export const certificateStanding = (serial: string, hostId: string): string => `
  select case
      when h.intent = 'revoked' or c.revoked_at is not null then 'revoked'
      when h.copied_at is not null then 'copied'
      when c.superseded_at < clock_timestamp() - interval '${supersedeMs} milliseconds' and exists (
        select 1 from certificates n where n.host_id = c.host_id and n.serial <> c.serial and n.first_used_at >= c.superseded_at)
        then 'superseded'
      when c.expires_at <= clock_timestamp() then 'expired'
      else 'good' end as standing
  from certificates c join hosts h on h.id = c.host_id where c.serial = ${serial} and c.host_id = ${hostId}`;

export const readStanding = async (tx: Tx, serial: string, hostId: string): Promise<Standing> =>
  (await tx.query<{ standing: Standing }>(certificateStanding("$1", "$2"), [serial, hostId])).rows[0]?.standing ??
  "unknown";

const refusals: { readonly [S in Exclude<Standing, "good">]: string } = {
  unknown: "this control plane did not issue it",
  revoked: "it was revoked",
  copied: "its identity was used by two agents; the host is quarantined",
  superseded: "it was replaced, and the new one is in use: it was copied",
  expired: "it has expired",
};
/** Why a certificate may not open a session; undefined when it may. */
export const refusalOf = (standing: Standing): string | undefined =>
  standing === "good" ? undefined : refusals[standing];

/** Older certificates of the host are replaced by a new one. */
export const supersedeCertificates = async (tx: Tx, hostId: string, except: string): Promise<void> => {
  await tx.query(
    `update certificates set superseded_at = clock_timestamp()
     where host_id = $1 and serial <> $2 and superseded_at is null and revoked_at is null`,
    [hostId, except],
  );
};

/** Answers whether the host has such a certificate; a repeat changes nothing. */
export const revokeCertificateRow = async (tx: Tx, hostId: string, serial: string): Promise<boolean> =>
  (
    await tx.query(
      `update certificates set revoked_at = coalesce(revoked_at, clock_timestamp()) where host_id = $1 and serial = $2`,
      [hostId, serial],
    )
  ).rowCount > 0;

export type CertificateRow = {
  readonly serial: string;
  readonly issuedAt: Date;
  readonly expiresAt: Date;
  readonly supersededAt: Date | null;
  readonly revokedAt: Date | null;
};
/** The newest first. */
export const listCertificates = async (tx: Tx, hostId: string, limit: number): Promise<CertificateRow[]> =>
  (
    await tx.query<CertificateRow>(
      `select serial, issued_at as "issuedAt", expires_at as "expiresAt", superseded_at as "supersededAt", revoked_at as "revokedAt"
       from certificates where host_id = $1 order by issued_at desc, serial limit $2`,
      [hostId, limit],
    )
  ).rows;
