// A database behind gates: a test is asked before every statement, begin and commit, and told after each. It can make the caller
// wait there, so that two operations interleave statement by statement, or throw there, as a process that dies would.
// Nothing of the statement is changed.
import type { Database, Tx } from "../store/database.ts";

export type Gate = "begin" | "statement" | "commit" | "direct";
export type Gates = {
  /** Throwing here: the statement is never sent, and an open transaction is rolled back. */
  before(gate: Gate): Promise<void> | void;
  /** The server answered (or refused) what was let through. */
  after(gate: Gate): void;
  /** Throwing here: the commit is written, and nobody learns of it. */
  committed(): void;
};

export const behindGates = (db: Database, gates: Gates): Database => {
  const gated = (tx: Tx, gate: Gate): Tx => ({
    query: async (sql, params) => {
      await gates.before(gate);
      try {
        return await tx.query(sql, params);
      } finally {
        gates.after(gate);
      }
    },
  });
  return {
    ...db,
    direct: gated(db.direct, "direct"),
    transaction: async (act) => {
      await gates.before("begin");
      let open: Gate | undefined = "begin";
      const close = () => {
        if (open !== undefined) gates.after(open);
        open = undefined;
      };
      try {
        const value = await db.transaction(async (tx) => {
          close();
          const answer = await act(gated(tx, "statement"));
          await gates.before("commit");
          open = "commit";
          return answer;
        });
        close();
        gates.committed();
        return value;
      } finally {
        close();
      }
    },
  };
};
