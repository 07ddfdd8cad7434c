"""Where workers keep their sessions: one interface, three stores."""
