// The one door to PostgreSQL. Statements live in the other files of this room; nothing outside store/ writes SQL.
// int8 arrives as bigint, timestamptz as Date, jsonb parsed, on the embedded server and on an outside one alike.
import { isCode } from "@renderplane/proto/kernel/errors.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";

export type Rows<R> = { readonly rows: R[]; readonly rowCount: number };

export type Tx = {
  query<R = Record<string, unknown>>(sql: string, params?: readonly unknown[]): Promise<Rows<R>>;
};

export type Database = Lifetime & {
  /** Single statements outside a transaction. */
  readonly direct: Tx;
  /**
   * Runs `act` in one transaction (read committed); rolls back when it throws. Serialization failures and deadlocks are
   * tried again as a whole, five times at most, so `act` must not have effects outside the database.
   * Throws RenderplaneError `unavailable` when the server cannot be reached.
   */
  transaction<T>(act: (tx: Tx) => Promise<T>): Promise<T>;
};

/** SQLSTATEs of a wait for a row that was given up, and of changes that kept ending each other. */
const heldRows: ReadonlySet<unknown> = new Set(["55P03", "40P01", "40001"]);

/** `unavailable` for this change alone, because somebody holds one of its rows: the server is there, and other changes may succeed. */
export const isRowHeld = (error: unknown): boolean => {
  if (!isCode(error, "unavailable")) return false;
  const { cause } = error as Error;
  return cause instanceof Error && "code" in cause && heldRows.has(cause.code);
};
