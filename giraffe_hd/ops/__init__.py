"""Operations of the volume rendering core, one file each: definition, reference and dispatch."""
