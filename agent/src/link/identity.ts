// Who this agent is: host id, key, certificate and the authorities it trusts, in one file so that a renewal replaces all or nothing.
// The key never leaves the host and is readable by the owner only. While enrolment is under way its key lies in a file of its own:
// an answer that was lost is asked for again with the same key, and a one-time token is not wasted.
import { createPrivateKey, generateKeyPairSync, type KeyObject, X509Certificate } from "node:crypto";
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { z } from "zod";

const schema = z.strictObject({
  version: z.literal(1),
  hostId: z.string().min(1),
  /** PKCS#8, PEM. */
  key: z.string().min(1),
  /** PEM. */
  certificate: z.string().min(1),
  /** PEM bundle. */
  authorities: z.string().min(1),
  sessionAddress: z.string().min(1),
});
export type Identity = Readonly<z.output<typeof schema>>;

export const identityPath = (dir: string): string => join(dir, "identity.json");
const enrolmentKeyPath = (dir: string): string => join(dir, "enrolment-key.pem");

/** undefined: not enrolled yet. Throws when the file is there and cannot be used. */
export const readIdentity = async (dir: string): Promise<Identity | undefined> => {
  const text = await readIfThere(identityPath(dir));
  if (text === undefined) return undefined;
  try {
    const identity = schema.parse(JSON.parse(text));
    if (!new X509Certificate(identity.certificate).checkPrivateKey(createPrivateKey(identity.key)))
      throw new Error("the key does not belong to the certificate");
    return identity;
  } catch (error) {
    throw new RenderplaneError(
      "certificate_refused",
      `${identityPath(dir)} cannot be used; move it away and enrol again with RENDERPLANE_JOIN_TOKEN`,
      { cause: error },
    );
  }
};

export const saveIdentity = async (dir: string, identity: Identity): Promise<void> => {
  await writeWhole(dir, identityPath(dir), JSON.stringify(identity));
  await rm(enrolmentKeyPath(dir), { force: true });
};

export const newKey = (): KeyObject => generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
export const pemOf = (key: KeyObject): string => key.export({ type: "pkcs8", format: "pem" }).toString();

/** The key of the enrolment that is under way, made and stored when there is none. */
export const enrolmentKey = async (dir: string): Promise<KeyObject> => {
  const kept = await readIfThere(enrolmentKeyPath(dir));
  if (kept !== undefined) return createPrivateKey(kept);
  const key = newKey();
  await writeWhole(dir, enrolmentKeyPath(dir), pemOf(key));
  return key;
};

const readIfThere = async (path: string): Promise<string | undefined> => {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
};

/** Old or new after a power cut, never half; mode 0600 from its first byte. */
const writeWhole = async (dir: string, path: string, text: string): Promise<void> => {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const fresh = `${path}.new`;
  await rm(fresh, { force: true });
  const file = await open(fresh, "wx", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(fresh, path);
  const folder = await open(dir, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
};
