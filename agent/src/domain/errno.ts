// What a system error says about this host, by its code and never by its text. Pure.

/** The disk or the quota is full: the host's trouble, the same work may succeed elsewhere. */
export const isDiskFull = (error: unknown): boolean => ["ENOSPC", "EDQUOT"].includes(errnoOf(error));

/** Our own disk or its rights, not the way to somebody else: repeating a transfer cures none of these. */
export const isLocalFault = (error: unknown): boolean =>
  isDiskFull(error) || ["EACCES", "EROFS", "EIO", "ENOENT", "EMFILE", "ENFILE"].includes(errnoOf(error));

const errnoOf = (error: unknown): string =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";
