//! Conversion of answers, by example.
