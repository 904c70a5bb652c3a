/* SPDX-License-Identifier: MIT */
#ifndef TEST_LATE_SESSION_H
#define TEST_LATE_SESSION_H

/*
 * How often rules of the transport's contract were broken in this process, e.g. memory deregistered
 * too early.
 */
unsigned int late_session_broken_rules(void);

#endif
