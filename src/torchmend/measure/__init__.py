"""Statistics of raw bytes, in bounded chunks and in several threads. numpy only; knows no file format."""
