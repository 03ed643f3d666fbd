/*
 * A network backend that leads nowhere: nothing comes from it, and what is sent is lost. It stands in for one
 * that must not be used, as when a machine is only looked at.
 */
#pragma once

struct net_backend;

/* With so many queues (1 to NET_QUEUES_MAX). NULL where memory is short. */
struct net_backend *net_nowhere_create(unsigned queues);
