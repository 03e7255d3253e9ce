// Moved: the records live in domain/, so that imports point one way.
export type * from "../domain/records.ts";
