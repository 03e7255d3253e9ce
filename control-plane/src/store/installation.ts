// Facts of the installation itself (authority, signing secret), made once by whoever starts first and read by all replicas.
// Invariant: two replicas that start at the same time agree, because the first commit wins and both read it back.

import type { JsonObject } from "../domain/records.ts";
import type { Tx } from "./database.ts";

/** `create` may run and lose; its value must have no effect until it is returned from here. */
export const installationValue = async (
  tx: Tx,
  name: string,
  create: () => Promise<JsonObject>,
): Promise<JsonObject> => {
  const found = await readValue(tx, name);
  if (found !== undefined) return found;
  // Waits for an uncommitted insert of the same name; in read committed the next statement then sees it.
  await tx.query("insert into installation (name, value) values ($1, $2) on conflict (name) do nothing", [
    name,
    JSON.stringify(await create()),
  ]);
  const value = await readValue(tx, name);
  if (value === undefined) throw new Error(`installation value ${name} is gone right after it was written`);
  return value;
};

const readValue = async (tx: Tx, name: string): Promise<JsonObject | undefined> =>
  (await tx.query<{ value: JsonObject }>("select value from installation where name = $1", [name])).rows[0]?.value;
