// What a refusal of the wire is, by the number of its status.
import type { ServiceError } from "@grpc/grpc-js";

export const isRefusedWith = (error: ServiceError | undefined, codes: readonly number[]): boolean =>
  error !== undefined && codes.includes(error.code);

/** The status of a call that failed, or "answered". */
export const statusOf = async (call: Promise<unknown>): Promise<number | "answered"> => {
  try {
    await call;
    return "answered";
  } catch (error) {
    return (error as ServiceError).code;
  }
};
