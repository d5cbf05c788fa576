//! Queries for people: lists, filters and pages. SQL only.
